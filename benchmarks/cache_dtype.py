"""Cached latents of half the size: do losses come out the same? A run of each dtype for each of three seeds.

Noise and timesteps are functions of the seed, so two runs of one seed differ by the rounding of their latents alone.
"""

import json
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.report import Goal, Row
from benchmarks.train import write_images
from riffusion_train.config.compose import compose
from riffusion_train.config.train import TrainConfig
from riffusion_train.training.run import run_training

_SEEDS, _STEPS, _SLICES, _LOGGING_STEPS = 3, 200, 400, 10
_AT_ONCE = 3
_LARGEST_PERCENT = 1.0


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Measure everything.

    Args:
        quick: Two seeds and few steps, to show that it runs.
        max_clips: Slices of the dataset.
    """
    seeds, steps, slices = (2, 2 * _LOGGING_STEPS, 20) if quick else (_SEEDS, _STEPS, max_clips or _SLICES)
    curves: dict[str, list[list[float]]] = {"fp32": [], "fp16": []}
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_images(Path(folder) / "dataset", slices, "tiny")
        # What a run computes does not depend on how fast it is, so they may run at the same time.
        with ProcessPoolExecutor(_AT_ONCE, multiprocessing.get_context("fork")) as pool:
            begun = [
                (dtype, pool.submit(losses, dataset, Path(folder), steps, seed, dtype))
                for seed in range(seeds)
                for dtype in curves
            ]
            for dtype, one in begun:
                curves[dtype].append(one.result())
    exact = curves["fp32"]
    about = f"{_LOGGING_STEPS} steps each, of a run of {steps} steps: the largest difference"
    spread = [_largest_percent(one, exact[(seed + 1) % seeds]) for seed, one in enumerate(exact)]
    own = [_largest_percent(one, other) for one, other in zip(curves["fp16"], exact, strict=True)]
    end, exact_end = ([statistics.fmean(one[len(one) // 2 :]) for one in curves[name]] for name in ("fp16", "fp32"))
    return [
        Row(f"mean losses of {about} between fp16 and fp32 latents, against that between two seeds", "%", own, spread,
            Goal.ours_at_most, _LARGEST_PERCENT),
        Row("mean loss of the second half with fp16 latents, against fp32", "mean squared error", end, exact_end),
    ]  # fmt: skip


def losses(dataset: Path, folder: Path, steps: int, seed: int, dtype: str) -> list[float]:
    """Train with cached latents; return the mean losses of every ten steps."""
    run_folder = folder / f"{dtype}-{seed}"
    arguments = ["experiment=tiny_cpu", f"dataset={dataset}", f"run={run_folder}", f"max_train_steps={steps}"]
    arguments += [f"seed={seed}", f"cache_dtype={dtype}", f"logging_steps={_LOGGING_STEPS}", "num_threads=1"]
    arguments += ["train_batch_size=4", "tracker=files", "preview.every_steps=0"]
    run_training(compose("train", TrainConfig, arguments), arguments)
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def _largest_percent(one: list[float], other: list[float]) -> float:
    """Return the largest difference of two loss curves at the same step, in per cent."""
    return max(100 * abs(a - b) / b for a, b in zip(one, other, strict=True))
