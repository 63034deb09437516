"""The data loader of a training run: how long a step waits for it, and whether memory grows with the number of slices."""

import functools
import json
import tempfile
from pathlib import Path

import torch

from benchmarks.report import Goal, Row
from benchmarks.timing import run_in_process
from benchmarks.train import write_images
from riffusion_train.config.compose import compose
from riffusion_train.config.train import TrainConfig
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.dataset.order import AddressedBatches, EpochOrder
from riffusion_train.dataset.spectrograms import PixelItems, SpectrogramDataset
from riffusion_train.training.run import run_training
from riffusion_train.training.tracking import peak_memory_bytes

_REPEATS, _STEPS, _LOGGING_STEPS, _SLICES = 3, 60, 10, 1000
_LARGE_FACTOR = 10
_BATCH_SIZE, _LATENT_SHAPE = 8, (4, 16, 16)


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Measure everything.

    Args:
        quick: One repeat of few steps and slices, to show that it runs.
        max_clips: Slices of the smaller dataset.
    """
    repeats, steps, slices = (1, 2 * _LOGGING_STEPS, 20) if quick else (_REPEATS, _STEPS, max_clips or _SLICES)
    waits: list[float] = []
    peaks: dict[int, list[float]] = {slices: [], _LARGE_FACTOR * slices: []}
    with tempfile.TemporaryDirectory() as folder:
        datasets = {count: write_images(Path(folder) / str(count), count, "tiny") for count in peaks}
        for repeat in range(repeats):
            waits += _waits(datasets[slices], Path(folder) / f"run-{repeat}", steps, quick)
            for count, dataset in datasets.items():
                peaks[count].append(run_in_process(functools.partial(read_all, dataset)) / 2**30)
    small, large = peaks.values()
    return [
        Row("tiny_cpu with 2 workers: waiting for a batch", "% of the time", waits, (), Goal.ours_at_most, 2.0, median=True),
        Row(f"peak memory after reading {_LARGE_FACTOR * slices} slices, against {slices}", "GiB", large, small,
            Goal.ratio_at_most, 1.1, median=True),
    ]  # fmt: skip


def _waits(dataset: Path, run_folder: Path, steps: int, quick: bool) -> list[float]:
    """Return the percentage of time that a run waited for its loader, per interval, without the one that starts the workers."""
    arguments = ["experiment=tiny_cpu", f"dataset={dataset}", f"run={run_folder}", f"max_train_steps={steps}"]
    arguments += ["dataloader_num_workers=2", f"logging_steps={_LOGGING_STEPS}", "num_threads=1", "tracker=files"]
    arguments += ["train_batch_size=2"] if quick else []
    run_in_process(functools.partial(run_training, compose("train", TrainConfig, arguments), arguments))
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [line["data_wait_percent"] for line in lines if "data_wait_percent" in line][1:]


def read_all(dataset: Path) -> int:
    """Read every slice of a dataset in batches as a run without caches does; return the peak memory in bytes."""
    torch.set_num_threads(1)
    table = SpectrogramDataset(open_dataset_folder(dataset), "train")
    order = AddressedBatches(
        EpochOrder(len(table), seed=0),
        batch_size=_BATCH_SIZE,
        accumulation=1,
        rank=0,
        world_size=1,
        first_step=0,
        last_step=-(-len(table) // _BATCH_SIZE),
    )
    slices = PixelItems(table, latent_shape=_LATENT_SHAPE, seed=0)
    read = sum(len(batch["pixels"]) for batch in torch.utils.data.DataLoader(slices, batch_sampler=order))
    assert read >= len(table)
    return peak_memory_bytes(torch.device("cpu"))
