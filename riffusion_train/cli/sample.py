"""`riffusion sample MODEL --prompt TEXT out=DIR`: make music from prompts."""

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from riffusion_train.cli.command import FlagParser, help_text
from riffusion_train.config.compose import compose
from riffusion_train.config.errors import InputError
from riffusion_train.config.progress import ProgressReport
from riffusion_train.config.sample import Quality, SampleConfig, SchedulerName

_FLAGS = "MODEL --prompt TEXT … | --prompts FILE | --again FILE [--negative TEXT] "
_STEM_LENGTH = 40


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What to sample, from the command line or from a clip's own settings."""

    model: str
    clips: list[tuple[str, str, int]]
    """(prompt, negative prompt, seed) of each clip."""
    fingerprint: str | None
    """What the model must be, where a clip is made again."""


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    if any(word in ("-h", "--help") for word in words):
        print(help_text("sample", SampleConfig, _FLAGS))
        return
    flags, rest = _parser().parse_known_args(list(words))
    unknown = [word for word in rest if word.startswith("--")]
    if unknown:
        raise InputError(f"unknown flag {unknown[0]}; the flags are {_FLAGS.strip()}")
    keys = tuple(f"{field.name}=" for field in dataclasses.fields(SampleConfig))
    models = [word for word in rest if not word.startswith(keys) and (Path(word).exists() or "=" not in word)]
    config = compose("sample", SampleConfig, [word for word in rest if word not in models])
    if len(models) > 1:
        raise InputError(f"more than one model: {', '.join(models)}; texts go in --prompt TEXT")
    model = models[0] if models else None
    wanted, config = _again(flags.again, model, config) if flags.again else (_fresh(flags, model, config), config)
    _sample(wanted, config)


def _parser() -> argparse.ArgumentParser:
    parser = FlagParser(prog="riffusion sample", add_help=False, allow_abbrev=False)
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT")
    parser.add_argument("--prompts", metavar="FILE")
    parser.add_argument("--negative", default="", metavar="TEXT")
    parser.add_argument("--again", metavar="FILE")
    return parser


def _fresh(flags: argparse.Namespace, model: str | None, config: SampleConfig) -> Wanted:
    """Collect the prompts of the command line and of the file, one a line."""
    if model is None:
        raise InputError("no model: riffusion sample MODEL --prompt TEXT out=DIR")
    prompts = list(flags.prompt)
    if flags.prompts:
        path = Path(flags.prompts).expanduser()
        if not path.is_file():
            raise InputError(f"--prompts {path}: no such file")
        prompts += [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not prompts:
        raise InputError("no prompt: give --prompt TEXT, or --prompts FILE with one prompt a line")
    variations = config.num_variations
    clips = [
        (prompt, flags.negative, config.seed + variation + (index * variations if config.vary_seed else 0))
        for index, prompt in enumerate(prompts)
        for variation in range(variations)
    ]
    return Wanted(model, clips, None)


def _again(file: str, model: str | None, config: SampleConfig) -> tuple[Wanted, SampleConfig]:
    """Take everything that decides the sound from a clip that was made before."""
    from riffusion_train.sampling.settings import load_settings

    settings = load_settings(Path(file).expanduser())
    clip = (settings.prompt, settings.negative_prompt, settings.seed)
    same = dataclasses.replace(
        config,
        guidance_scale=settings.guidance_scale,
        num_inference_steps=settings.num_inference_steps,
        scheduler=SchedulerName(settings.scheduler),
        quality=Quality(settings.quality),
    )
    return Wanted(model or settings.model, [clip], settings.model_fingerprint), same


def _sample(wanted: Wanted, config: SampleConfig) -> None:
    import torch

    from riffusion_train.cli.quiet import quieten_libraries
    from riffusion_train.sampling.sampler import ASSUMED_PRESET, Sampler

    quieten_libraries()
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    sampler = Sampler.load(
        wanted.model,
        device=config.device,
        scheduler=config.scheduler,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        quality=config.quality,
    )
    if sampler.assumed_spectrogram:
        print(f"{wanted.model} has no spectrogram.json; {ASSUMED_PRESET} is assumed", file=sys.stderr)
    if wanted.fingerprint not in (None, sampler.model_fingerprint):
        raise InputError(f"{wanted.model} is not the model the clip was made with (its UNet has other weights)")
    out = Path(config.out).expanduser()
    stems = [out / _stem(index, prompt, seed) for index, (prompt, _, seed) in enumerate(wanted.clips)]
    with ProgressReport("sample", len(stems)) as progress:
        clips = sampler.generate(wanted.clips, batch_size=config.batch_size)
        for done, (stem, clip) in enumerate(zip(stems, clips, strict=True), start=1):
            clip.save(stem, config.format.value)
            progress.update(done)
    print(f"sampled: {len(stems)} clips in {out}")


def _stem(index: int, prompt: str, seed: int) -> str:
    """Return a file name that says what is inside: number, start of the prompt, seed."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:_STEM_LENGTH].strip("-")
    return f"{index:04d}-{words or 'empty'}-seed{seed}"
