"""Is the judge right? Its choice among the checkpoints of trainings whose quality a classifier knows independently.

The demo's UNet and text encoder are trained with several seeds, on the demo's corpus and with one VAE. Every checkpoint samples
the same held-out captions, and `evaluate run` scores it. The demo's classifier, which sees images and learnt from the true
attributes of the corpus, says how often a clip is what was asked for. One more model is trained on ten slices only: it must be
reported as copying, and the others must not.

The work is kept in `runs/benchmark-judge`; the same command continues it. The pictures of `docs/evaluation.md` are drawn into
`runs/benchmark-judge/STEPS-steps/pictures`.
"""

import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.judge_figures import Measured, draw, figure_rows
from benchmarks.report import Row
from benchmarks.timing import run_in_process, run_riffusion
from riffusion_train.audio.image_file import load_image
from riffusion_train.config.denoising import SchedulerName
from riffusion_train.config.sample import DemoConfig, RunConfig
from riffusion_train.dataset.layout import SOURCE, open_dataset_folder
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.demo.judged import ATTRIBUTES, CaptionClassifier
from riffusion_train.demo.steps import RECOMMENDED, DemoFolder, StepRunner, plan_steps
from riffusion_train.evaluation.checkpoints import CheckpointScores
from riffusion_train.evaluation.run import CLIPS_DIR, RunScoring
from riffusion_train.listening.real import grey
from riffusion_train.runtime.files import write_json

WORK = Path("runs/benchmark-judge")
CHECKPOINTS = 5
FEW_SLICES = 10
"""Slices that the copying model is trained on."""
_TRAIN_BATCH_SIZE = 8
"""Half of the demo's: more steps for the time, which short trainings gain from."""
_BATCH_SIZE = 16
_MEASURED_FILE = "measured.json"


@dataclasses.dataclass(frozen=True)
class _Scale:
    """How much is done."""

    demo: float = 1.0
    """The demo's `scale=` of the corpus and the VAE."""
    steps: int = 2100
    """Training steps of each UNet."""
    seeds: int = 3
    few_steps: int = 300
    """Training steps of the VAE that is trained on ten slices, and of its UNet."""
    clips: int = 48
    """Clips that each checkpoint samples."""
    real: int = 128
    """Held-out clips that they are compared with, as in the demo."""


_QUICK = _Scale(demo=0.1, steps=5, seeds=1, few_steps=5, clips=16)


def run(*, quick: bool = False, scale: float = 1.0) -> list[Row]:
    """Train, sample and judge; what a stopped run has done is not done again.

    Args:
        quick: One seed and a few steps, to show that it runs.
        scale: The training steps of each UNet are multiplied by this.
    """
    if quick:
        with tempfile.TemporaryDirectory() as folder:
            return _measure(Path(folder), _QUICK)
    steps = CHECKPOINTS * max(1, round(_Scale.steps * scale / CHECKPOINTS))
    return _measure(WORK / f"{steps}-steps", _Scale(steps=steps))


def _measure(work: Path, scale: _Scale) -> list[Row]:
    demo = _prepare(work.parent / "demo" if work.parent == WORK else work / "demo", scale)
    runs = [work / f"seed-{seed}" for seed in range(scale.seeds)]
    for seed, path in enumerate(runs):
        _train(demo.vae_run, demo.dataset, path, scale.steps, seed)
    few = demo.path.parent / "few-slices"
    few_slices = _write_few(demo, few)
    vae = _train_vae(few_slices, few / "vae", scale.few_steps)
    _train(vae, few_slices, few / "run", scale.few_steps, 0, "ema.decay=0.98")
    measured = [_scored(demo, path, seed, scale) for seed, path in enumerate(runs)]
    copying = _scored(demo, few / "run", 0, scale, "final")[-1]
    draw(measured, work / "pictures")
    return figure_rows(measured, copying)


def _prepare(path: Path, scale: _Scale) -> DemoFolder:
    """Compose the corpus, prepare it and train the VAE, as the demo does."""
    folder = DemoFolder(path, None)
    path.mkdir(parents=True, exist_ok=True)
    steps = plan_steps(DemoConfig(out=str(path), scale=scale.demo, num_threads=1), folder, None, lambda: None)
    StepRunner(path).run(steps[:3])
    return folder


def _write_few(demo: DemoFolder, path: Path) -> Path:
    """Prepare a dataset of the first ten files whose slices are in the train split of the demo's."""
    trained = SpectrogramDataset(open_dataset_folder(demo.dataset), "train")
    audio = path / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    for source in sorted(set(trained.rows[SOURCE]))[:FEW_SLICES]:
        for suffix in (".flac", ".txt"):
            name = Path(source).with_suffix(suffix).name
            shutil.copyfile(demo.audio / name, audio / name)
    given = [f"audio={audio}", f"out={path / 'dataset'}", "spectrogram=tiny", "validation_ratio=0", "num_workers=0"]
    run_riffusion(["prepare", *given])
    return path / "dataset"


def _train_vae(dataset: Path, path: Path, steps: int) -> Path:
    """Train a VAE as the demo does, on a few slices only: the demo's own loses too much for a copy to be recognised."""
    given = ["experiment=demo_vae", f"dataset={dataset}", f"run={path}", f"max_train_steps={steps}", "seed=0"]
    if not (path / "final").is_dir():
        run_riffusion(["train", *given, "validation=none", "tracker=files", "num_threads=1", "resume=auto"])
    return path


def _train(vae: Path, dataset: Path, path: Path, steps: int, seed: int, *options: str) -> None:
    """Train the demo's UNet and text encoder, and keep `CHECKPOINTS` checkpoints."""
    given = ["experiment=demo", f"model={vae / 'final'}", f"dataset={dataset}", f"run={path}"]
    given += [f"max_train_steps={steps}", f"checkpointing_steps={max(1, steps // CHECKPOINTS)}"]
    given += [f"checkpoints_total_limit={CHECKPOINTS}", f"seed={seed}", "validation=none", "tracker=files"]
    given += [f"train_batch_size={_TRAIN_BATCH_SIZE}", *options]
    if not (path / "final").is_dir():
        run_riffusion(["train", *given, "num_threads=1", "resume=auto"])


def _scored(demo: DemoFolder, path: Path, seed: int, scale: _Scale, checkpoints: str = "all") -> list[Measured]:
    """Return what `_score` returns, from its file where it was done before."""
    file = path / _MEASURED_FILE
    if not file.is_file():
        measured = run_in_process(functools.partial(_score, demo, path, seed, scale, checkpoints))
        write_json(file, [dataclasses.asdict(one) for one in measured])
    return [Measured(**one) for one in json.loads(file.read_text(encoding="utf-8"))]


def _score(demo: DemoFolder, path: Path, seed: int, scale: _Scale, checkpoints: str = "all") -> list[Measured]:
    """Score the checkpoints of a run as `evaluate run` does, and classify the same clips."""
    import torch

    torch.set_num_threads(1)
    config = RunConfig(
        real=str(demo.dataset),
        checkpoints=checkpoints,
        num_clips=scale.clips,
        num_real=scale.real,
        guidance_scale=float(str(RECOMMENDED["guidance_scale"])),
        scheduler=SchedulerName(RECOMMENDED["scheduler"]),
        num_inference_steps=int(str(RECOMMENDED["num_inference_steps"])),
        batch_size=_BATCH_SIZE,
        unet_batch_size=_BATCH_SIZE,
        hear_slices=False,
        device="cpu",
    )
    evaluation = RunScoring(str(path), config).run()
    right = _Classified(demo)
    return [
        Measured(
            seed=seed,
            step=one.step,
            loss=one.loss or 0.0,
            kid=one.value("kid"),
            agreement=one.value("agreement"),
            copies=one.value("copies"),
            attributes=right.shares(path, one),
            is_chosen=one is evaluation.best.scores,
        )
        for one in evaluation.checkpoints
    ]


class _Classified:
    """The demo's classifier, and what each held-out caption asks for.

    Args:
        demo: The demo; the classifier is fitted on its validation split.
    """

    def __init__(self, demo: DemoFolder) -> None:
        held_out = SpectrogramDataset(open_dataset_folder(demo.dataset), "validation")
        labels = {name: [str(value) for value in held_out.rows[name]] for name in ATTRIBUTES}
        self._classifier = CaptionClassifier([grey(held_out.image(row)) for row in range(len(held_out))], labels)
        self._asked: dict[str, Mapping[str, str]] = {}
        for row in range(len(held_out)):
            self._asked.setdefault(held_out.captions(row)[0], {name: labels[name][row] for name in ATTRIBUTES})

    def shares(self, run: Path, scores: CheckpointScores) -> dict[str, float]:
        """Return for each attribute the share of a checkpoint's clips that are what their captions ask for."""
        folder = run / "scores" / CLIPS_DIR / scores.file_name.removesuffix(".json")
        images = [grey(load_image((folder / str(clip["file"])).with_suffix(".png")).image) for clip in scores.clips]
        asked = [self._asked[clip["captions"][0]] for clip in scores.clips]
        return self._classifier.accuracy(images, {name: [one[name] for one in asked] for name in ATTRIBUTES})
