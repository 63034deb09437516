"""The commands that `compare_versions` runs with both versions, in order: later ones read what earlier ones wrote."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Case:
    """Some commands and what they write."""

    name: str
    """What the table calls it; begins with its group."""
    commands: tuple[str, ...]
    """Words after `riffusion`; `corpus` stands for `python -m data_prep.corpus`."""
    outputs: tuple[str, ...] = ()
    """Files and folders to compare."""
    strict: bool = False
    """Compare the bytes of the files."""
    printed: bool = False
    """Compare the printed numbers."""
    given: tuple[str, str] | None = None
    """A command that the old version alone runs, and the folder it writes, which both then have."""
    before: Callable[[Path], None] | None = None
    """What to do in the folder before the commands."""


def _back_to_step_5(source: str, target: str, folder: Path) -> None:
    """Copy a run of ten steps as it was after five."""
    run = folder / target
    shutil.copytree(folder / source, run)
    for name in ("checkpoints/step-000010", "previews", "final"):
        shutil.rmtree(run / name, ignore_errors=True)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= 5]
    (run / "metrics.jsonl").write_text("".join(kept), encoding="utf-8")


_TEN_STEPS = "max_train_steps=10 train_batch_size=4 logging_steps=1 tracker=files num_threads=1 optimizer.lr=1e-3"
_FULL = (
    f"train dataset=datasets/tiny model=tiny method=full {_TEN_STEPS} checkpointing_steps=5 validation.every_steps=5 "
    "preview.every_steps=10 preview.num_prompts=1 preview.num_inference_steps=4"
)
_LORA = (
    f"train dataset=datasets/tiny model=runs/full/final method=lora {_TEN_STEPS} checkpointing_steps=5 method.lora_rank=4 "
    "method.train_text_encoder=true objective=min_snr schedule=cosine schedule.num_warmup_steps=2"
)
_QUICK = "num_inference_steps=4 quality=draft device=cpu num_threads=1"

SPECTROGRAM = (
    Case("corpus", ("corpus out=corpus clips=3 seed=1 num_workers=0",), ("corpus",)),
    Case(
        "spectrogram encode",
        (
            "spectrogram encode ../input/other.flac strip.png preset=hifi_stereo",
            "spectrogram encode ../input/mixed/nostalgic.ogg slices preset=riffusion_v1 slices=true",
        ),
        ("strip.png", "slices"),
    ),
    Case(
        "spectrogram decode",
        ("spectrogram decode strip.png strip.wav", "spectrogram decode slices slices.flac quality=draft"),
        ("strip.wav", "slices.flac"),
    ),
    Case(
        "spectrogram compare",
        ("spectrogram compare ../input/other.flac strip.wav compared.png",),
        ("compared.png",),
        printed=True,
    ),
    Case("spectrogram inspect", ("spectrogram inspect strip.png", "spectrogram inspect strip.wav"), printed=True),
)

PREPARE = (
    Case(
        "prepare parquet, tiny",
        ("prepare audio=../input/mixed out=datasets/tiny spectrogram=tiny validation_ratio=0.3 num_workers=1",),
        ("datasets/tiny",),
        strict=True,
    ),
    Case(
        "prepare in parts",
        (
            "prepare audio=../input/mixed out=datasets/parts spectrogram=tiny stride_s=3 num_workers=0 part=1/2",
            "prepare audio=../input/mixed out=datasets/parts spectrogram=tiny stride_s=3 num_workers=0 part=2/2",
            "prepare merge out=datasets/parts",
        ),
        ("datasets/parts",),
        strict=True,
    ),
    Case(
        "prepare folder, small, captions=table",
        (
            "prepare audio=../input/table out=datasets/folder spectrogram=small writer=folder captions=table num_workers=0 "
            "tail=overlap target_lufs=-20 random_crops=1 trigger=zuzu template_use=add 'caption_template={genre}, {bpm} bpm'",
        ),
        ("datasets/folder",),
        strict=True,
    ),
    Case(
        "prepare webdataset, hifi_stereo, captions=tags",
        (
            "prepare audio=../input/tagged out=datasets/web spectrogram=hifi_stereo writer=webdataset captions=tags "
            "num_workers=0 skip_silence=true remove_dc=true max_clipped=0.01 duplicates=drop default_caption=music",
        ),
        ("datasets/web",),
        strict=True,
    ),
    Case(
        "prepare parquet, hifi, cleaned and measured",
        (
            "prepare audio=../input/tagged out=datasets/hifi spectrogram=hifi captions=tags num_workers=0 tail=drop "
            "default_caption=music near_duplicates=drop measure=loudness,brightness,drums target_lufs=null license=mit",
        ),
        ("datasets/hifi",),
        strict=True,
    ),
    Case(
        "prepare parquet, tiny, stereo_phase",
        (
            "prepare audio=../input/table out=datasets/stereo spectrogram=tiny spectrogram.channels=stereo_phase "
            "num_workers=0 silence_dbfs=-50 peak_ceiling_dbfs=-3",
        ),
        ("datasets/stereo",),
        strict=True,
    ),
)

TRAIN = (
    Case("train full", (f"{_FULL} run=runs/full",), ("runs/full",)),
    Case(
        "train 5 + 5",
        (f"{_FULL} run=runs/resumed resume=auto",),
        ("runs/resumed",),
        before=functools.partial(_back_to_step_5, "runs/full", "runs/resumed"),
    ),
    Case(  # 0.1.0 draws new adapters from an unseeded generator: only what follows the start can be compared
        "train lora 5 + 5",
        (f"{_LORA} run=runs/lora resume=auto",),
        ("runs/lora",),
        given=(f"{_LORA} run=runs/lora_start", "runs/lora_start"),
        before=functools.partial(_back_to_step_5, "runs/lora_start", "runs/lora"),
    ),
    Case(
        "train vae",
        (f"train dataset=datasets/tiny model=tiny method=vae method.train_vae_encoder=true {_TEN_STEPS} run=runs/vae",),
        ("runs/vae",),
    ),
    Case(
        "train stereo, zero SNR, text encoder",
        (
            f"train dataset=datasets/stereo model=tiny {_TEN_STEPS} run=runs/stereo method.train_text_encoder=true "
            "objective=zero_snr ema=none cache_latents=false gradient_accumulation_steps=2 train_batch_size=2 "
            "objective.noise_offset=0.05 objective.input_perturbation=0.1",
        ),
        ("runs/stereo",),
    ),
)

EXPORT = (
    Case("export diffusers", ("export run=runs/full out=model",), ("model",)),
    Case(
        "export single_file, fp16",
        ("export run=runs/full out=raw.safetensors format=single_file checkpoint=5 weights=raw dtype=fp16",),
        ("raw.safetensors",),
    ),
    Case("export lora", ("export run=runs/lora out=lora format=lora layout=diffusers",), ("lora",)),
    Case(
        "export lora, kohya",
        ("export run=runs/lora out=kohya.safetensors format=lora layout=kohya",),
        ("kohya.safetensors",),
    ),
    Case("import single_file", ("import raw.safetensors out=back",), ("back",)),
    Case(
        "import lora into its base",
        ("import kohya.safetensors base=model out=merged.safetensors format=single_file dtype=bf16 lora_scale=0.7",),
        ("merged.safetensors",),
    ),
)

SAMPLE = (
    Case(
        "sample text",
        (
            "sample model --prompt '(calm music:1.2), a band' --prompt drums --negative noise out=clips/text seed=3 "
            "num_inference_steps=6 device=cpu num_threads=1 --lora kohya.safetensors:0.5",
        ),
        ("clips/text",),
    ),
    Case(
        "sample stereo, flac",
        (f"sample runs/stereo/final --prompt 'calm music' out=clips/stereo scheduler=ddim format=flac {_QUICK}",),
        ("clips/stereo",),
    ),
    Case(
        "sample audio",
        (
            "sample model mode=audio --audio ../input/melody.wav --prompt piano --prompt-end drums strength=0.6 "
            f"scheduler=euler out=clips/audio {_QUICK}",
        ),
        ("clips/audio",),
    ),
    Case(
        "sample inpaint",
        (
            "sample model mode=inpaint --audio ../input/other.flac --prompt piano --keep 0-1.5 --mask ../input/mask.png "
            f"--band 200-9000 scheduler=unipc out=clips/inpaint {_QUICK}",
        ),
        ("clips/inpaint",),
    ),
    Case(
        "sample extend",
        (f"sample model mode=extend --audio ../input/other.flac --prompt piano duration=3s out=clips/extend {_QUICK}",),
        ("clips/extend",),
    ),
    Case(
        "sample long",
        (f"sample model mode=long --schedule '0s: piano | 4s: drums' duration=9s out=clips/long seed=2 {_QUICK}",),
        ("clips/long",),
    ),
    Case(
        "sample loop",
        (f"sample model mode=loop --prompt drums bpm=120 bars=2 scheduler=euler_a out=clips/loop {_QUICK}",),
        ("clips/loop",),
    ),
    Case(
        "sample walk",
        (
            "sample model mode=walk --prompt piano --prompt drums clips=2 seed_image=beats out=clips/walk "
            f"strength_end=0.9 {_QUICK}",
        ),
        ("clips/walk",),
    ),
    Case(
        "sample morph",
        (
            "sample model mode=morph --audio ../input/melody.wav --audio ../input/other.flac steps=3 out=clips/morph "
            f"{_QUICK}",
        ),
        ("clips/morph",),
    ),
    Case(
        "sample --again",
        ("sample --again 'clips/text/0001-*drums-seed3.wav' out=clips/again device=cpu num_threads=1",),
        ("clips/again",),
    ),
)

EVALUATE = (
    Case(
        "evaluate grid",
        (
            "evaluate grid runs/full --prompt piano --prompt drums checkpoints=5,final num_inference_steps=2 quality=draft "
            "device=cpu num_threads=1 out=site",
        ),
        ("site",),
    ),
)

CASES = (*SPECTROGRAM, *PREPARE, *TRAIN, *EXPORT, *SAMPLE, *EVALUATE)
