"""Run the demo: the planned commands, then the listening test, the figures and the page."""

import dataclasses
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from riffusion_train.audio.codec.codec import EncodedClip, SpectrogramCodec, make_codec
from riffusion_train.audio.codec.image_file import load_image, save_image
from riffusion_train.audio.io.read import read_audio
from riffusion_train.audio.io.write import write_audio
from riffusion_train.config.demo import DemoConfig
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.demo.report import (
    FIGURES_FILE,
    Clip,
    Curve,
    DemoPage,
    FigureRow,
    Pair,
    agreement_rows,
    write_figures,
    write_page,
)
from riffusion_train.demo.steps import GUIDANCE_SCALE, DemoFolder, StepRunner, num_samples, plan_steps
from riffusion_train.evaluation.classifier import ATTRIBUTES, CaptionClassifier
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.provenance import machine, versions

TARGETS = {"instrument": 0.75, "drums": 0.95, "tempo": 0.80, "register": 0.70}
"""What a demo at full scale has to reach."""

_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Sample:
    """One generated clip with the held-out slice that its prompt describes."""

    prompt: str
    stem: Path
    """Its files, without the suffix."""
    index: int
    """Row of the slice in the validation split."""


def run_demo(config: DemoConfig, words: Sequence[str]) -> Path:
    """Run the whole demo, leaving out what is done, and return the path of its page.

    Raises:
        InputError: If something in the config or in the user's audio cannot be used.
        StoppedError: If asked to stop; the same command goes on.
    """
    path = Path(config.out).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    folder = DemoFolder(path, None if config.audio_dir is None else Path(config.audio_dir).expanduser())
    runner = StepRunner(path)
    count = num_samples(config)
    runner.run(plan_steps(config, folder, lambda: _write_prompts(folder, count)))
    table = SpectrogramDataset(open_dataset_folder(folder.dataset), "validation")
    codec = make_codec(table.folder.spectrogram)
    samples = _find_samples(folder, table, count)
    command = shlex.join(["riffusion", "demo", *words])
    figures, heard = _listen(table, codec, samples)
    write_figures(path / FIGURES_FILE, command, figures)
    page = DemoPage(
        pairs=_pairs(path, table, codec, in_turn(samples)[:_SHOWN], heard),
        figures=figures,
        curves=[
            _curve("VAE: reconstruction loss", folder.vae_run),
            _curve("UNet and text encoder: denoising loss", folder.run),
        ],
        steps=runner.results,
        command=command,
        facts=_facts(folder, table, len(samples)),
    )
    return write_page(path, page)


def _write_prompts(folder: DemoFolder, count: int) -> None:
    """Take the first caption of each of the first held-out slices as a prompt."""
    table = SpectrogramDataset(open_dataset_folder(folder.dataset), "validation")
    prompts = [table.captions(index)[0] for index in range(min(count, len(table)))]
    folder.prompts.write_text("\n".join(prompts) + "\n", encoding="utf-8")


def _find_samples(folder: DemoFolder, table: SpectrogramDataset, count: int) -> list[Sample]:
    pictures = sorted(folder.samples.glob("*.png"))
    wanted = min(count, len(table))
    if len(pictures) != wanted:
        raise InputError(f"{folder.samples}: holds {len(pictures)} clips instead of {wanted}; remove it and run again")
    return [
        Sample(
            json.loads(picture.with_suffix(".json").read_text(encoding="utf-8"))["prompt"],
            picture.with_suffix(""),
            index,
        )
        for index, picture in enumerate(pictures)
    ]


def _listen(
    table: SpectrogramDataset, codec: SpectrogramCodec, samples: list[Sample]
) -> tuple[list[FigureRow], dict[str, list[str]]]:
    """Judge the generated clips by their pictures and by their sound; nothing where the audio has no attributes."""
    if not set(ATTRIBUTES) <= set(table.rows.column_names):
        return [], {}
    labels = {name: [str(value) for value in table.rows[name]] for name in ATTRIBUTES}
    try:
        judge = CaptionClassifier([_grey(table.image(index)) for index in range(len(table))], labels)
    except InputError as error:
        print(f"the listening test is left out: {error}")
        return [], {}
    wanted = {name: [labels[name][sample.index] for sample in samples] for name in ATTRIBUTES}
    pictures = [_grey(load_image(sample.stem.with_suffix(".png")).image) for sample in samples]
    sounds = [_grey(codec.encode(read_audio(sample.stem.with_suffix(".wav"))[0]).image) for sample in samples]
    rows = agreement_rows(judge.listen(pictures, wanted), TARGETS)
    by_sound = agreement_rows(judge.listen(sounds, wanted))
    rows += [
        dataclasses.replace(row, what=f"{row.what}, judged from the sound", unit=f"{row.unit}, by sound")
        for row in by_sound
    ]
    return rows, judge.predict(pictures)


def in_turn(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples one prompt after the other; the slices of a long track all have the same."""
    seen: Counter[str] = Counter()
    rounds = []
    for sample in samples:
        rounds.append(seen[sample.prompt])
        seen[sample.prompt] += 1
    return [samples[place] for place in sorted(range(len(samples)), key=rounds.__getitem__)]


def _pairs(
    path: Path,
    table: SpectrogramDataset,
    codec: SpectrogramCodec,
    samples: list[Sample],
    heard: Mapping[str, Sequence[str]],
) -> list[Pair]:
    """Put each generated clip beside the real one of the same description, heard through the same codec."""
    pairs = []
    for sample in samples:
        place = sample.index
        real = path / "real" / f"{place:04d}"
        real.parent.mkdir(exist_ok=True)
        picture = table.image(sample.index)
        save_image(real.with_suffix(".png"), EncodedClip(picture, 0.0), codec.config)
        write_audio(real.with_suffix(".wav"), codec.decode(picture), codec.rate_hz)
        row = table.rows[sample.index]
        pairs.append(
            Pair(
                prompt=sample.prompt,
                wanted={name: str(row[name]) for name in ATTRIBUTES if name in row},
                generated=_clip(path, sample.stem, {name: verdicts[place] for name, verdicts in heard.items()}),
                real=_clip(path, real, {}),
            )
        )
    return pairs


def _clip(path: Path, stem: Path, heard: Mapping[str, str]) -> Clip:
    relative = stem.relative_to(path).as_posix()
    return Clip(f"{relative}.png", f"{relative}.wav", heard)


def _grey(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 2 else image.mean(axis=2).round().astype(np.uint8)


def _curve(name: str, run: Path) -> Curve:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return Curve(name, [(line["step"], line["loss"]) for line in lines if "loss" in line])


def _facts(folder: DemoFolder, table: SpectrogramDataset, num_clips: int) -> dict[str, str]:
    box, found = machine(), versions()
    spectrogram = table.folder.spectrogram
    return {
        "machine": f"{box['processor']}, {box['cores']} cores, {box['memory_gib']} GiB",
        "software": ", ".join(f"{name} {found[name]}" for name in ("riffusion-train", "python", "torch", "diffusers")),
        "slices": f"{table.folder.num_slices('train')} to learn from, {len(table)} held out",
        "pictures": f"{spectrogram.width_px} × {spectrogram.n_mels} pixels for {spectrogram.clip_s:.2f} s",
        "sampled": f"{num_clips} prompts from held-out captions, guidance {GUIDANCE_SCALE:g}",
        "model": str(folder.model),
    }
