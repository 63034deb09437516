"""Run the demo: its commands, then the measurement of what it made, the figures and the page."""

import dataclasses
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from riffusion_train.audio.codec import EncodedClip, SpectrogramCodec, make_codec
from riffusion_train.audio.image_file import load_image, save_image
from riffusion_train.audio.read import read_audio
from riffusion_train.audio.write import write_audio
from riffusion_train.config.sample import DemoConfig
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.demo.judged import ATTRIBUTES, CaptionClassifier, judge_demo
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
from riffusion_train.demo.steps import FINE_TUNED, FROM_NOTHING, Base, DemoFolder, StepRunner, choose_base, plan_steps
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.provenance import machine, versions

TARGETS = {"instrument": 0.75, "drums": 0.95, "tempo": 0.80, "register": 0.70}
"""Agreement with the captions that a demo from nothing has to reach at full scale."""

_NUM_SHOWN = 12
_COLUMNS = {"instrument": ("instrument", "lead"), **{name: (name,) for name in ATTRIBUTES if name != "instrument"}}
"""The columns of a composed corpus that hold an attribute: those of exercises, or those of music."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One generated clip, and the slice whose caption was its prompt."""

    prompt: str
    stem: Path
    """Its files, without the suffix."""
    index: int
    """Row of the slice in its split."""
    held_out: bool = True
    """Whether it is of the validation split, not of the one that was trained on."""


def run_demo(config: DemoConfig, arguments: Sequence[str]) -> Path:
    """Run the whole demo, skipping steps that are done, and return the path of its page.

    Args:
        config: The options.
        arguments: The command line they come from, for the page.

    Raises:
        InputError: If something in the config or in the user's audio cannot be used.
        StoppedError: If a stop was asked for; the same command continues.
    """
    path = Path(config.out).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    folder = DemoFolder(path, None if config.audio_dir is None else Path(config.audio_dir).expanduser())
    base = choose_base(config)
    runner = StepRunner(path)
    count = (FROM_NOTHING if base is None else FINE_TUNED).num_samples(config.scale)
    runner.run(plan_steps(config, folder, base, lambda: _write_prompts(folder, count)))
    data = _Data.open(folder)
    codec = make_codec(data.held_out.folder.spectrogram)
    samples = _find_samples(folder.samples, data, count)
    before = [] if base is None else _find_samples(folder.before, data, count)
    command = shlex.join(["riffusion", "demo", *arguments])
    figures, verdicts = _measure(data, codec, samples, before)
    judged = judge_demo(folder, data.held_out, data.trained)
    write_figures(path / FIGURES_FILE, command, [*figures, *judged.words, *judged.rows])
    shown = round_robin(samples)[:_NUM_SHOWN]
    pairs = [(samples[index], before[index] if before else None) for index in shown]
    page = DemoPage(
        pairs=_pairs(path, data, codec, pairs, verdicts),
        figures=[*figures, *judged.words],
        judged=judged.rows,
        judged_notes=judged.notes,
        scores_page=(folder.scores / "index.html").relative_to(path).as_posix(),
        curves=[*([_curve("VAE: reconstruction loss", folder.vae_run)] if base is None else []),
                _curve("UNet and text encoder: denoising loss", folder.run)],
        steps=runner.results,
        command=command,
        facts=_facts(folder, data.held_out, samples, base),
        title=f"Music from text, {'trained' if base is None else 'fine-tuned'} on this machine",
        base=None if base is None else Path(base.name).name,
    )  # fmt: skip
    return write_page(path, page)


@dataclasses.dataclass(frozen=True)
class _Data:
    """Both splits of the demo's dataset."""

    held_out: SpectrogramDataset
    trained: SpectrogramDataset

    @classmethod
    def open(cls, folder: DemoFolder) -> "_Data":
        dataset = open_dataset_folder(folder.dataset)
        return cls(SpectrogramDataset(dataset, "validation"), SpectrogramDataset(dataset, "train"))

    def split(self, sample: Sample) -> SpectrogramDataset:
        return self.held_out if sample.held_out else self.trained

    def choose(self, count: int) -> list[tuple[str, int, bool]]:
        """Return captions, each once, with the row of a slice and whether it is held out: these first, then trained ones.

        All slices of a song often have the same caption. Where there are too few, held-out ones are repeated.
        """
        held_out = [self.held_out.captions(index)[0] for index in range(len(self.held_out))]
        chosen: dict[str, tuple[str, int, bool]] = {}
        for index, caption in enumerate(held_out):
            chosen.setdefault(caption, (caption, index, True))
        for index in range(len(self.trained)):
            if len(chosen) >= count:
                break
            caption = self.trained.captions(index)[0]
            chosen.setdefault(caption, (caption, index, False))
        used = {index for _, index, is_held_out in chosen.values() if is_held_out}
        again = [(caption, index, True) for index, caption in enumerate(held_out) if index not in used]
        return [*chosen.values(), *again][: min(count, max(len(chosen), len(held_out)))]


def _write_prompts(folder: DemoFolder, count: int) -> None:
    prompts = [caption for caption, _, _ in _Data.open(folder).choose(count)]
    folder.prompts.write_text("\n".join(prompts) + "\n", encoding="utf-8")


def _find_samples(folder: Path, data: _Data, count: int) -> list[Sample]:
    records = sorted(folder.glob("*.json"))
    chosen = data.choose(count)
    if len(records) != len(chosen):
        raise InputError(f"{folder}: holds {len(records)} clips instead of {len(chosen)}; remove it and run again")
    prompts = [json.loads(record.read_text(encoding="utf-8"))["prompt"] for record in records]
    return [
        Sample(prompt, record.with_suffix(""), index, held_out)
        for prompt, record, (_, index, held_out) in zip(prompts, records, chosen, strict=True)
    ]


def _measure(
    data: _Data, codec: SpectrogramCodec, samples: list[Sample], before: list[Sample]
) -> tuple[list[FigureRow], dict[Path, dict[str, str]]]:
    """Measure how often a classifier hears in the generated clips what their captions ask for.

    Args:
        data: The dataset.
        codec: Its codec.
        samples: The clips.
        before: Those of the base model, from the same captions; none without one.

    Returns:
        A row for each attribute, judged from the image and from the sound, and what the classifier hears in each image, by
        the clip's path; both empty if the audio comes without attributes.
    """
    dataset = data.held_out
    columns = _columns(dataset)
    if len(columns) < len(_COLUMNS):
        return [], {}
    labels = {name: [str(value) for value in dataset.rows[column]] for name, column in columns.items()}
    try:
        classifier = CaptionClassifier([_grey(dataset.image(index)) for index in range(len(dataset))], labels)
    except InputError as error:
        print(f"the agreement with the captions is not measured: {error}")
        return [], {}
    asked = {
        name: [str(data.split(one).rows[one.index][column]) for one in samples] for name, column in columns.items()
    }
    rows, verdicts = _heard(classifier, codec, samples, asked, {} if before else TARGETS)
    if before:
        rows_before, verdicts_before = _heard(classifier, codec, before, asked, {})
        rows = [dataclasses.replace(row, before=old.ours) for row, old in zip(rows, rows_before, strict=True)]
        verdicts |= verdicts_before
    return rows, verdicts


def _columns(dataset: SpectrogramDataset) -> dict[str, str]:
    """Return the column of each attribute that the dataset has."""
    names = dataset.rows.column_names
    return {name: column for name, columns in _COLUMNS.items() for column in columns if column in names}


def _heard(
    classifier: CaptionClassifier,
    codec: SpectrogramCodec,
    samples: list[Sample],
    asked: Mapping[str, list[str]],
    targets: Mapping[str, float],
) -> tuple[list[FigureRow], dict[Path, dict[str, str]]]:
    images = [_grey(load_image(sample.stem.with_suffix(".png")).image) for sample in samples]
    sounds = [_grey(codec.encode(read_audio(sample.stem.with_suffix(".wav"))[0]).image) for sample in samples]
    rows = agreement_rows(classifier.agreements(images, asked), targets)
    by_sound = agreement_rows(classifier.agreements(sounds, asked))
    rows += [
        dataclasses.replace(row, what=f"{row.what}, judged from the sound", unit=f"{row.unit}, by sound")
        for row in by_sound
    ]
    heard = classifier.predict(images)
    return rows, {sample.stem: {name: heard[name][number] for name in heard} for number, sample in enumerate(samples)}


def round_robin(samples: Sequence[Sample]) -> list[int]:
    """Return the indices of the samples, prompts alternating; the slices of a long track all have the same one."""
    seen: Counter[str] = Counter()
    rounds = []
    for sample in samples:
        rounds.append(seen[sample.prompt])
        seen[sample.prompt] += 1
    return sorted(range(len(samples)), key=rounds.__getitem__)


def _pairs(
    path: Path,
    data: _Data,
    codec: SpectrogramCodec,
    samples: Sequence[tuple[Sample, Sample | None]],
    verdicts: Mapping[Path, Mapping[str, str]],
) -> list[Pair]:
    """Put each generated clip, and that of the base model, beside the real one of the same description."""
    pairs = []
    for sample, before in samples:
        dataset = data.split(sample)
        real = path / "real" / (f"{sample.index:04d}" + ("" if sample.held_out else "-trained"))
        real.parent.mkdir(exist_ok=True)
        image = dataset.image(sample.index)
        save_image(real.with_suffix(".png"), EncodedClip(image, 0.0), codec.config)
        write_audio(real.with_suffix(".wav"), codec.decode(image), codec.rate_hz)
        row = dataset.rows[sample.index]
        pairs.append(
            Pair(
                prompt=sample.prompt,
                expected={name: str(row[column]) for name, column in _columns(dataset).items()},
                generated=_clip(path, sample.stem, verdicts.get(sample.stem, {})),
                real=_clip(path, real, {}),
                before=None if before is None else _clip(path, before.stem, verdicts.get(before.stem, {})),
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


def _facts(
    folder: DemoFolder, dataset: SpectrogramDataset, samples: Sequence[Sample], base: Base | None
) -> dict[str, str]:
    hardware, packages = machine(), versions()
    num_trained = sum(not sample.held_out for sample in samples)
    captions = "held-out captions" + (f", {num_trained} from trained ones" if num_trained else "")
    spectrogram = dataset.folder.spectrogram
    record = json.loads(samples[0].stem.with_suffix(".json").read_text(encoding="utf-8"))
    return {
        "machine": f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB",
        "software": ", ".join(
            f"{name} {packages[name]}" for name in ("riffusion-train", "python", "torch", "diffusers")
        ),
        "slices": f"{dataset.folder.num_slices('train')} for training, {len(dataset)} held out",
        "images": f"{spectrogram.width_px} × {spectrogram.n_mels} pixels for {spectrogram.clip_s:.2f} s",
        "sampled": f"{len(samples)} prompts from {captions}, {record['num_inference_steps']} steps of "
        f"{record['scheduler']}, guidance {record['guidance_scale']:g}",
        **({} if base is None else {"base model": base.name}),
        "model": str(folder.model),
    }
