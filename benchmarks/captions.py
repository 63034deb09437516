"""What `captions=tags` does to combinations of attributes that the demo's model has never heard.

A third of the 54 combinations of instrument, drums and register is kept out of training, so that every two values still occur
together, but no three of a kept-out combination. Both methods train the demo's model on the same clips with the same VAE, once
for each seed, and sample the same prompts with the same noise. A classifier, fitted on real clips of all combinations that
no model was trained on, says which attributes it finds. Control: the same clips with the prompts in shuffled order.

Captions and prompts are the demo's: "slow piano melody, low register, no drums". The work is kept in
`runs/benchmark-captions`; the same command continues it.
"""

import dataclasses
import functools
import io
import itertools
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.report import Row
from benchmarks.timing import run_in_process, run_riffusion
from data_prep.corpus import file_stem, write_corpus
from data_prep.corpus.exercises import Attributes, attributes_of, captions_of, prompt_of
from data_prep.corpus.palette import DRUMS, INSTRUMENTS, PATTERNS, REGISTERS, TEMPI
from riffusion_train.demo.judged import ATTRIBUTES, CaptionClassifier
from riffusion_train.runtime.files import write_atomically

WORK = Path("runs/benchmark-captions")
METHODS = {"tags": "captions=tags", "default": "captions=default"}
"""Ours and its reference, with the preset of each."""

_Key = tuple[str, bool]
"""A method, and whether its combinations are unseen."""
_Labels = dict[str, list[str]]
"""The value of each clip, by attribute."""
_GUIDANCE_SCALE, _NUM_INFERENCE_STEPS, _BATCH_SIZE = 5.0, 20, 18


@dataclasses.dataclass(frozen=True)
class _Scale:
    """How much is done."""

    clips: int = 3 * 486
    """Clips to train on, before the unseen combinations are left out; every combination occurs once in 486."""
    real_clips: int = 486
    """Clips for the classifier."""
    vae_steps: int = 250
    steps: int = 240
    seeds: int = 3
    prompts: int = 54
    """Prompts of combinations that were trained on, and as many of others."""


_QUICK = _Scale(clips=24, real_clips=36, vae_steps=2, steps=2, seeds=1, prompts=4)


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Train, sample and classify; what a stopped run has done is not done again.

    Args:
        quick: Two steps and one seed, to show that it runs.
        max_clips: Training steps of each model instead of 240: with more, the models are better and it takes longer.
    """
    if quick:
        with tempfile.TemporaryDirectory() as folder:
            return _measure(Path(folder), _QUICK)
    scale = _Scale() if max_clips is None else _Scale(steps=max_clips)
    return _measure(WORK / f"{scale.steps}-steps", scale)


def is_unseen(attributes: Attributes) -> bool:
    """Whether a clip is of one of the 18 combinations that are kept out of training."""
    instrument = list(INSTRUMENTS).index(attributes.instrument)
    return (instrument + list(DRUMS).index(attributes.drums) + list(REGISTERS).index(attributes.register)) % 3 == 0


def prompts_of(*, unseen: bool, count: int) -> list[Attributes]:
    """Return what to ask for, evenly over 18 combinations, all tempi and all patterns.

    Args:
        unseen: Whether of combinations that were kept out, or of as many that were trained on.
        count: How many of the 54.
    """
    asked = []
    for number, (instrument, drums, register) in enumerate(itertools.product(INSTRUMENTS, DRUMS, REGISTERS)):
        place = number // 9 + number // 3 % 3 + number % 3  # of the three in their tables, as in is_unseen
        if place % 3 != (0 if unseen else 1):
            continue
        for index, tempo in enumerate(TEMPI):
            pattern = list(PATTERNS)[(index + number) % len(PATTERNS)]
            asked.append(Attributes(instrument, tempo, 0, drums, register, pattern, "C", "major"))
    return [asked[index * len(asked) // count] for index in range(count)]


def _measure(work: Path, scale: _Scale) -> list[Row]:
    dataset, vae = work / "dataset", work / "vae"
    _write_dataset(work, scale)
    _train(["experiment=demo_vae", f"dataset={dataset}", f"run={vae}", f"max_train_steps={scale.vae_steps}", "seed=0"])
    prompts = {unseen: prompts_of(unseen=unseen, count=scale.prompts) for unseen in (True, False)}

    def length(seed: int) -> list[str]:
        return [f"max_train_steps={scale.steps}", f"seed={seed}"]

    for seed, (method, preset) in itertools.product(range(scale.seeds), METHODS.items()):
        trained = work / f"{method}-{seed}"
        _train(
            ["experiment=demo", preset, f"model={vae / 'final'}", f"dataset={dataset}", f"run={trained}", *length(seed)]
        )
        for unseen, asked in prompts.items():
            if not _images_file(trained, unseen=unseen).is_file():
                run_in_process(functools.partial(_sample, trained, asked, _images_file(trained, unseen=unseen)))
    files = {
        (method, unseen): [_images_file(work / f"{method}-{seed}", unseen=unseen) for seed in range(scale.seeds)]
        for method in METHODS
        for unseen in prompts
    }
    found, real = run_in_process(functools.partial(_classify, dataset, files))
    rows: list[Row] = []
    for unseen, asked in prompts.items():
        name = "unseen combinations" if unseen else "combinations trained on"
        rows += _rows(name, asked, *(found[method, unseen] for method in METHODS))
    rows += [Row(f"classifier on real clips: {name}", "share of clips", [real[name]]) for name in ATTRIBUTES]
    return rows


def _rows(name: str, asked: Sequence[Attributes], ours: Sequence[_Labels], reference: Sequence[_Labels]) -> list[Row]:
    """Return a row for each attribute, and the mean of all; below them, each with shuffled prompts."""
    rows: list[Row] = []
    for shuffled in (False, True):
        own, other = ([_agreement(labels, asked, shuffled=shuffled) for labels in runs] for runs in (ours, reference))
        title = f"{name}{', shuffled prompts' if shuffled else ''}"
        rows += [
            Row(
                f"{title}: {attribute}",
                "share of clips",
                [share[attribute] for share in own],
                [share[attribute] for share in other],
            )
            for attribute in ATTRIBUTES
        ]
        means = [[statistics.fmean(share.values()) for share in shares] for shares in (own, other)]
        rows.append(Row(f"{title}: mean of the four", "share of clips", means[0], means[1]))
    return rows


def _agreement(labels: _Labels, asked: Sequence[Attributes], *, shuffled: bool) -> dict[str, float]:
    """Return the share of clips in which the classifier finds what was asked for, by attribute."""
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(asked)) for _ in range(1000)] if shuffled else [np.arange(len(asked))]
    shares = {}
    for name in ATTRIBUTES:
        named, heard = np.array([getattr(one, name) for one in asked]), np.array(labels[name])
        shares[name] = float(np.mean([np.mean(heard == named[order]) for order in orders]))
    return shares


def _write_dataset(work: Path, scale: _Scale) -> None:
    """Compose the corpus, and prepare it: the unseen combinations are not in the train split, and all are in the test split."""
    audio, table = work.parent / "audio" if work.parent == WORK else work / "audio", work / "clips.jsonl"
    clips = scale.clips + scale.real_clips
    write_corpus(audio, clips=clips, seed=0, num_workers=1)
    rows = []
    for clip in range(clips):
        attributes = attributes_of(0, clip)
        split = "test" if clip >= scale.clips else "validation" if is_unseen(attributes) else "train"
        row = {"file_name": f"{file_stem(clip)}.flac", "caption": captions_of(attributes, 0, clip), "split": split}
        rows.append(json.dumps(row | dataclasses.asdict(attributes)))
    work.mkdir(parents=True, exist_ok=True)
    write_atomically(table, "\n".join(rows) + "\n")
    given = [f"audio={audio}", f"out={work / 'dataset'}", "spectrogram=tiny", "captions=table", f"table={table}"]
    run_riffusion(["prepare", *given, "num_workers=1"])


def _train(arguments: list[str]) -> None:
    given = ["train", *arguments, "validation=none", "tracker=files", "num_threads=1", "resume=auto"]
    run_riffusion(given)


def _images_file(trained: Path, *, unseen: bool) -> Path:
    return trained / f"{'unseen' if unseen else 'seen'}.npy"


def _sample(trained: Path, asked: Sequence[Attributes], file: Path) -> None:
    """Sample an image for each description, and write all of them, uint8 (clips, height, width)."""
    import torch

    from riffusion_train.cli.model import quieten_libraries
    from riffusion_train.sampling.modes.base import TextRequest
    from riffusion_train.sampling.sampler import Sampler

    quieten_libraries()
    torch.set_num_threads(1)
    sampler = Sampler.load(
        trained / "final", device="cpu", num_inference_steps=_NUM_INFERENCE_STEPS, unet_batch_size=_BATCH_SIZE
    )
    requests = [
        TextRequest(prompt=prompt_of(one), seed=seed, guidance_scale=_GUIDANCE_SCALE) for seed, one in enumerate(asked)
    ]
    images: list[np.ndarray] = []
    for start in range(0, len(requests), _BATCH_SIZE):
        images += sampler.images(requests[start : start + _BATCH_SIZE])
    content = io.BytesIO()
    np.save(content, np.stack(images))
    write_atomically(file, content.getvalue())


def _classify(
    dataset: Path, files: Mapping[_Key, Sequence[Path]]
) -> tuple[dict[_Key, list[_Labels]], dict[str, float]]:
    """Return the attributes that a classifier finds in each file of images, and its accuracy on real clips.

    It is fitted on the test split: each combination of all attributes once.
    """
    from riffusion_train.dataset.spectrograms import load_dataset

    real = load_dataset(dataset, "test")
    labels = {name: [str(value) for value in real.rows[name]] for name in ATTRIBUTES}
    classifier = CaptionClassifier([real.image(index) for index in range(len(real))], labels)
    found = {key: [classifier.predict(list(np.load(path))) for path in paths] for key, paths in files.items()}
    return found, classifier.real_accuracy
