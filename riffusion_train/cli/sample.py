"""`riffusion sample [MODEL] --prompt TEXT out=DIR [mode=…]`: make music. `riffusion sample seeds FOLDER` writes seed images."""

import argparse
import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riffusion_train.cli.arguments import (
    DEFAULT_MODEL_NOTE,
    Arguments,
    Command,
    Flag,
    parse_range,
    parse_schedule,
    parse_seconds,
    read_all_prompts,
)
from riffusion_train.config.denoising import check_denoising
from riffusion_train.config.sample import AudioFormat, ModeName, SampleConfig, sampler_options
from riffusion_train.config.spectrogram import SeedImagesConfig, find_preset
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import refuse_url
from riffusion_train.runtime.hub import DEFAULT_MODEL, check_source

if TYPE_CHECKING:
    from riffusion_train.audio.marking import Certificate
    from riffusion_train.cli.requests import RequestMaker
    from riffusion_train.runtime.progress import ProgressReport
    from riffusion_train.sampling.clip import Clip, ClipRecord, StreamedClip
    from riffusion_train.sampling.denoise import StepReport
    from riffusion_train.sampling.modes.base import Request
    from riffusion_train.sampling.sampler import Sampler

_SEEDS = Command(
    name="sample seeds",
    root=SeedImagesConfig,
    usage="FOLDER [AUDIO …]",
    takes_positionals=True,
    has_presets=False,
    notes="\nWrites the built-in seed images, or one of each sound, as PNG and WAV files.",
)
_COMMAND = Command(
    name="sample",
    root=SampleConfig,
    usage="[MODEL] --prompt TEXT … | --prompts FILE | --again FILE [--negative TEXT] [--audio FILE …]",
    takes_positionals=True,
    local_keys=("out",),
    notes=f"{DEFAULT_MODEL_NOTE}\nriffusion sample seeds FOLDER [AUDIO …] [preset=NAME|PATH] writes seed images to walk from.",
    flags=(
        Flag(
            "--prompt",
            meaning="what to make; (word:1.2), (word) and [word] weigh; repeat it for several clips, or for points of a walk",
            repeats=True,
        ),
        Flag("--prompts", "FILE", "one prompt a line, UTF-8"),
        Flag("--prompt-end", meaning="in audio, the prompt at the end of the sound"),
        Flag("--negative", meaning="what to lead away from", default=""),
        Flag("--audio", "FILE", "the sound to work on; repeat it for several, two for a morph", repeats=True),
        Flag("--keep", "A-B", "in inpaint, seconds that stay; repeat it", repeats=True),
        Flag("--renew", "A-B", "in inpaint, seconds that are made anew; repeat it", repeats=True),
        Flag("--band", "LOW-HIGH", "in inpaint, only these frequencies in Hz"),
        Flag("--mask", "FILE", "in inpaint, an image over the sound: white is made anew"),
        Flag("--schedule", meaning="in long, prompts by time: '0s: slow piano | 30s: drums'"),
        Flag("--volume", meaning="in long, level by time, 0 to 1: '0s: 0.2 | 30s: 1'", old_name="--energy"),
        Flag("--lora", "FILE[:WEIGHT]", "merge a LoRA into the model; repeat it", repeats=True),
        Flag("--again", "FILE", "make a clip once more from its .json, .png or audio file"),
    ),
)
_MODES_OF_FLAG = {
    "prompt_end": (ModeName.audio,),
    "keep": (ModeName.inpaint,),
    "renew": (ModeName.inpaint,),
    "band": (ModeName.inpaint,),
    "mask": (ModeName.inpaint,),
    "schedule": (ModeName.long,),
    "volume": (ModeName.long,),
    "audio": (ModeName.audio, ModeName.inpaint, ModeName.extend, ModeName.morph),
}

_MODES_OF_KEY = {
    "strength": (ModeName.audio, ModeName.inpaint, ModeName.walk),
    "duration": (ModeName.extend, ModeName.long, ModeName.loop),
    "backwards": (ModeName.extend,),
    "pick": (ModeName.extend,),
    **dict.fromkeys(("bpm", "bars", "beats_per_bar"), (ModeName.loop,)),
    **dict.fromkeys(("clips", "seed_image", "strength_end", "guidance_end", "alpha_power"), (ModeName.walk,)),
    "steps": (ModeName.morph,),
}
"""The modes that read a key; every mode reads the others."""

_FREE_KEYS = {"out", "format", "device", "num_threads", "batch_size", "certificate", "certificate_key", "timestamp_url"}
"""Keys that do not change a clip, or only its last bits."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb.

    Raises:
        InputError: If the arguments contradict each other, or nothing, or not all of it, can be made.
    """
    if arguments and arguments[0] == "seeds":
        _write_seed_images(arguments[1:])
        return
    parsed = _COMMAND.parse(arguments)
    if parsed is None:
        return
    models = parsed.positionals
    if len(models) > 1:
        raise InputError(f"more than one model: {', '.join(models)}; texts go in --prompt TEXT, sounds in --audio FILE")
    for flag in ("audio", "again", "mask", "prompts", "lora"):
        values = getattr(parsed.flags, flag)
        for value in values if isinstance(values, list) else [values]:
            refuse_url(f"--{flag} ", value)
    _check_flags(parsed.flags, parsed.config.mode)
    if not parsed.flags.again:
        _check_keys(parsed.given, parsed.config)
    if parsed.flags.again:
        _make_again(parsed)
        return
    _check_texts(parsed.flags, parsed.config)
    _certificate(parsed.config)
    model = models[0] if models else DEFAULT_MODEL
    check_source(model)
    from riffusion_train.cli.requests import make_requests

    requests, failed = _resolve(make_requests(parsed.flags, parsed.config))
    sampler = _load(model, parsed.flags.lora, parsed.config)
    if not (parsed.config.guidance_scale is not None or parsed.config.guidance_scales or parsed.config.unconditional):
        requests = [dataclasses.replace(request, guidance_scale=sampler.guidance_scale) for request in requests]
    out = Path(parsed.config.out).expanduser()
    if parsed.config.pick:
        from riffusion_train.sampling.clip import new_stem

        for request in requests:
            with new_stem(out, request) as stem:
                pick_and_extend(sampler, request, stem, parsed.config.pick, parsed.config.format.value)
        return
    _make_and_save(sampler, requests, failed, parsed.config)


def _check_flags(flags: argparse.Namespace, mode: ModeName) -> None:
    """Refuse flags that the mode would ignore, and a mode without the sound that it needs."""
    if flags.again:
        others = [name for name, value in vars(flags).items() if value and name not in ("again", "lora")]
        if others:
            raise InputError(f"--{others[0].replace('_', '-')} does not go with --again, which repeats a clip as it is")
        return
    for name, modes in _MODES_OF_FLAG.items():
        flag = "--" + name.replace("_", "-")
        if getattr(flags, name) and mode not in modes:
            choices = "|".join(one.value for one in modes)
            raise InputError(f"{flag} goes with mode={choices}, not with mode={mode.value}")
    if mode is ModeName.morph and len(flags.audio) != 2:
        raise InputError("mode=morph needs two sounds: --audio FROM --audio TO")
    if mode in _MODES_OF_FLAG["audio"] and not flags.audio:
        raise InputError(f"mode={mode.value} needs a sound: --audio FILE")


def _check_keys(given: Mapping[str, Any], config: SampleConfig) -> None:
    """Refuse keys that the mode, or another key, makes the command ignore."""
    for name, value in given.items():
        modes = _MODES_OF_KEY.get(name)
        if modes and config.mode not in modes and value is not None:
            choices = "|".join(mode.value for mode in modes)
            hint = "; num_inference_steps= is the number of denoising steps" if name == "steps" else ""
            raise InputError(f"{name}= goes with mode={choices}, not with mode={config.mode.value}{hint}")
    if "guidance_scale" in given and config.guidance_scales:
        raise InputError(
            "guidance_scale= and guidance_scales= exclude each other; list all of them in guidance_scales="
        )
    if config.unconditional and ("guidance_scale" in given or config.guidance_scales):
        raise InputError(
            "unconditional=true makes clips without guidance; leave out guidance_scale= and guidance_scales="
        )


def _check_texts(flags: argparse.Namespace, config: SampleConfig) -> None:
    """Refuse texts and numbers that cannot be used, before torch is imported."""
    read_all_prompts(flags, config)
    if config.num_variations < 1:
        raise InputError(f"num_variations={config.num_variations}: must be at least 1")
    for flag in ("keep", "renew"):
        for text in getattr(flags, flag):
            parse_range(text, f"--{flag}")
    if flags.band:
        parse_range(flags.band, "--band")
    parse_schedule(flags.volume, "--volume")
    parse_schedule(flags.schedule, "--schedule")
    if config.duration is not None:
        parse_seconds(config.duration, f"duration={config.duration}")
    check_denoising(config)


def _resolve(makers: Sequence["RequestMaker"]) -> tuple[list["Request"], list[str]]:
    """Return the requests, and a message for each that cannot be made."""
    requests, failed = [], []
    for make in makers:
        try:
            requests.append(make())
        except InputError as error:
            failed.append(str(error))
    if not requests:
        raise InputError(failed[0] if len(failed) == 1 else f"nothing can be made: {'; '.join(failed)}")
    return requests, failed


def _make_again(parsed: Arguments[SampleConfig]) -> None:
    """Make a clip once more from one of its files, with everything that shapes it as it was."""
    from riffusion_train.sampling.clip import audio_file_of, load_record

    file = Path(parsed.flags.again).expanduser()
    record = load_record(file)
    record.check(file, {name: value for name, value in parsed.given.items() if name not in _FREE_KEYS})
    model = parsed.positionals[0] if parsed.positionals else record.sampler.model
    config = _config_of_record(parsed.config, record)
    audio = audio_file_of(file)
    if audio is not None and "format" not in parsed.given:
        config = dataclasses.replace(config, format=AudioFormat(audio.suffix.removeprefix(".")))
    sampler = _load(model, parsed.flags.lora or list(record.sampler.loras), config)
    sampler.check(record, file)
    _make_and_save(sampler, [record.request], [], config)


def _make_and_save(sampler: "Sampler", requests: Sequence["Request"], failed: list[str], config: SampleConfig) -> None:
    """Make and save every clip that can be made, then report the others.

    Args:
        sampler: The model.
        requests: What to make.
        failed: Messages of requests that failed before.
        config: Where to write, and how.
    """
    from riffusion_train.audio.marking import sign_files
    from riffusion_train.runtime.progress import ProgressReport
    from riffusion_train.sampling.clip import new_stem

    out = Path(config.out).expanduser()
    certificate = _certificate(config)
    made: list[Path] = []
    with ProgressReport("sample", len(requests)) as progress:
        for index, result in _make(sampler, requests, config.batch_size, progress):
            if isinstance(result, InputError):
                failed.append(str(result))
            else:
                with new_stem(out, requests[index]) as stem:
                    files = result.save(stem, config.format.value)
                    if certificate is not None:
                        sign_files(files, result.record.mark, certificate)
                    made.append(files[0])
            progress.update(index + 1)
    if len(failed) == 1 and not made:
        raise InputError(failed[0])
    print("\n".join([*map(str, made), f"sampled: {len(made)} clips in {out}, each with its .png and .json"]))
    if made:
        print(f"once more, the same: riffusion sample --again {shlex.quote(str(made[-1]))} out=DIR")
    if failed:
        raise InputError(f"{len(failed)} of {len(made) + len(failed)} clips failed: {'; '.join(failed)}")


def _certificate(config: SampleConfig) -> "Certificate | None":
    """Return what clips are signed with; None if they are not.

    Raises:
        InputError: If it cannot be used, or not with the format.
    """
    from riffusion_train.audio.marking import Certificate, check_signed_format

    if config.certificate is None:
        if config.certificate_key is not None or config.timestamp_url is not None:
            raise InputError("certificate_key= and timestamp_url= go with certificate=FILE, which is missing")
        return None
    if config.certificate_key is None:
        raise InputError("certificate= needs the key that belongs to it: certificate_key=FILE")
    if config.pick:
        raise InputError("certificate= does not go with pick=, whose clips are steps on the way to another")
    check_signed_format(f".{config.format.value}")
    chain, key = Path(config.certificate).expanduser(), Path(config.certificate_key).expanduser()
    return Certificate(chain, key, config.timestamp_url)


def _make(
    sampler: "Sampler", requests: Sequence["Request"], batch_size: int, progress: "ProgressReport"
) -> Iterator[tuple[int, "Clip | StreamedClip | InputError"]]:
    """Yield the index of each request with its clip, or with the reason why there is none."""
    from riffusion_train.sampling.modes.base import TextRequest

    if all(isinstance(request, TextRequest) for request in requests):
        yield from enumerate(sampler.make_all(requests, batch_size=batch_size, report=_step_report(progress)))
        return
    for index, request in enumerate(requests):
        try:
            yield index, sampler.make(request, _step_report(progress))
        except InputError as error:
            yield index, error


def _step_report(progress: "ProgressReport") -> "StepReport":
    """Return a callback that shows the denoising steps of a clip beside the number of clips done."""
    return lambda step, steps: progress.update(progress.done, f"step {step} of {steps}") if step < steps else None


def _config_of_record(config: SampleConfig, record: "ClipRecord") -> SampleConfig:
    """Return the config with every option that shapes the sound taken from a clip that was made before."""
    from riffusion_train.sampling.pipeline import best_device

    before = record.sampler
    return dataclasses.replace(
        config,
        mode=ModeName(record.request.mode),
        num_inference_steps=before.num_inference_steps,
        scheduler=before.scheduler,
        timesteps=before.timesteps,
        guidance=before.guidance,
        guidance_interval=list(before.guidance_interval),
        guidance_rescale=before.guidance_rescale,
        apg_momentum=before.apg_momentum,
        apg_norm_threshold=before.apg_norm_threshold,
        apg_eta=before.apg_eta,
        guide=before.guide,
        quality=before.quality,
        dtype=before.dtype,
        target_lufs=before.target_lufs,
        unet_batch_size=before.unet_batch_size,
        channels_last=before.channels_last,
        compile=before.compile,
        attention_slicing=before.attention_slicing,
        device=config.device or (before.device if before.device in ("cpu", best_device()) else None),
    )


def _load(model: str, loras: Sequence[str], config: SampleConfig) -> "Sampler":
    from riffusion_train.cli.model import load_sampler

    return load_sampler(model, loras, config.num_threads, **sampler_options(config))


def pick_and_extend(sampler: "Sampler", request: "Request", stem: Path, num_candidates: int, audio_format: str) -> Path:
    """Make candidates, ask which one to continue from, and extend that one, until the answer is q.

    This is how the users of Jukebox composed together with the model (Dhariwal et al. 2020). The candidates of each round lie
    in `<stem>-round-N/`; every one of them is a clip with its own settings.

    Args:
        sampler: The model.
        request: What to extend, and how; an `ExtendRequest`.
        stem: Where to write.
        num_candidates: How many in each round; their seeds count up.
        audio_format: The format of the files.

    Returns:
        The sound that was chosen last, or the source if none was.

    Raises:
        InputError: If the source cannot be used.
    """
    from riffusion_train.sampling.modes.base import SourceFile
    from riffusion_train.sampling.modes.edit import ExtendRequest

    assert isinstance(request, ExtendRequest)
    chosen = Path(request.source.path)
    turn = 0
    while True:
        turn += 1
        folder = stem.with_name(f"{stem.name}-round-{turn}")
        sounds = []
        for index in range(num_candidates):
            seed = request.seed + (turn - 1) * num_candidates + index
            clip = sampler.make(dataclasses.replace(request, source=SourceFile.of(chosen), seed=seed))
            sounds.append(clip.save(folder / f"{index + 1}", audio_format)[0])
            print(f"{index + 1}: {sounds[-1]}")
        answer = _ask(num_candidates)
        if answer is None:
            print(f"ends with {chosen}")
            return chosen
        if answer:
            chosen = sounds[answer - 1]


def _ask(num_candidates: int) -> int | None:
    """Ask until the answer is a number, n for new candidates (0), or q to end (None)."""
    while True:
        try:
            text = input(f"continue from 1-{num_candidates}, n for new ones, q to end: ").strip().lower()
        except EOFError:
            return None
        if text in ("q", "n"):
            return None if text == "q" else 0
        if text.isdecimal() and 1 <= int(text) <= num_candidates:
            return int(text)
        print(f"'{text}' is none of them")


def _write_seed_images(arguments: Sequence[str]) -> None:
    """Write the built-in seed images, or one of each sound, as PNG files that carry their codec, and as WAV files."""
    parsed = _SEEDS.parse(arguments)
    if parsed is None:
        return
    files = [Path(name) for name in parsed.positionals]
    if not files:
        raise InputError(f"usage: riffusion sample seeds {_SEEDS.usage}")
    from riffusion_train.audio.codec import EncodedClip, make_codec
    from riffusion_train.audio.image_file import save_image
    from riffusion_train.audio.write import write_audio
    from riffusion_train.sampling.sources import SEED_IMAGES, make_seed_image, make_seed_image_of_sound

    codec = make_codec(find_preset(parsed.config.preset))
    folder, *sounds = files
    folder.mkdir(parents=True, exist_ok=True)
    images = {path.stem: make_seed_image_of_sound(path, codec) for path in sounds}
    for name, image in (images or {name: make_seed_image(name, codec) for name in SEED_IMAGES}).items():
        save_image(folder / f"{name}.png", EncodedClip(image, 0.0), codec.config)
        write_audio(folder / f"{name}.wav", codec.decode_loop(image), codec.rate_hz)
        print(f"wrote {folder / name}.png and .wav: a loop of {image.shape[1]} columns")
