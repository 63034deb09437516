"""Training compared with diffusers' published recipe: steps per CPU second and peak memory, with caches and without.

Both sides use one thread and the same small model, data, batch size and settings. Each method runs in its own process, because
peak memory is measured per process; the methods alternate.
"""

import functools
import io
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.report import Goal, Row
from benchmarks.timing import run_in_process
from benchmarks.train_true_size import true_size_rows
from benchmarks.train_worker import MODEL, measure
from riffusion_train.config.compose import compose
from riffusion_train.config.spectrogram import load_preset, write_spectrogram
from riffusion_train.config.train import TrainConfig
from riffusion_train.dataset.layout import arrow_schema, shard_name
from riffusion_train.dataset.spectrograms import ROWS_PER_BLOCK
from riffusion_train.model.loading import make_components

_METHODS = ("cached", "uncached", "diffusers")
_REPEATS, _STEPS, _SLICES = 3, 30, 32


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Measure everything.

    Args:
        quick: One repeat of three steps, to show that it runs.
        max_clips: Slices of the dataset.
    """
    repeats, steps = (1, 3) if quick else (_REPEATS, _STEPS)
    measured: dict[str, list[dict[str, Any]]] = {method: [] for method in _METHODS}
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_images(Path(folder) / "dataset", max_clips or _SLICES)
        for _ in range(repeats):
            for method in _METHODS:
                measured[method].append(run_in_process(functools.partial(measure, method, str(dataset), steps)))
    speeds = {method: [1 / statistics.median(one["seconds"]) for one in runs] for method, runs in measured.items()}
    memory = {method: [one["peak_bytes"] / 2**30 for one in runs] for method, runs in measured.items()}
    rows = [Row("VAE and text encoder over the UNet's forward and backward", "share of FLOPs", [frozen_share()])]
    for method, caches, limit in (("cached", "caches on", 1.4), ("uncached", "caches off", 1.05)):
        rows += [
            Row(f"training, {caches}: speed", "steps per CPU s", speeds[method], speeds["diffusers"],
                Goal.ratio_at_least, limit, median=True),
            Row(f"training, {caches}: peak memory", "GiB", memory[method], memory["diffusers"],
                Goal.ratio_at_most, 1.0, median=True),
        ]  # fmt: skip
    return rows + true_size_rows(quick=quick)


def frozen_share() -> float:
    """Return the FLOPs of encoding an image and a caption over those of training the UNet on them; for SD 1.5, 0.47."""
    from torch.utils.flop_counter import FlopCounterMode

    from riffusion_train.training.tracking import count_flops

    config = compose("train", TrainConfig, ["dataset=none", *MODEL]).model
    parts = make_components(config, seed=0)
    side, states = config.sample_size, torch.randn(1, 77, config.text_hidden_size)
    pixels = torch.randn(1, 3, side * parts.downsampling, side * parts.downsampling)
    with torch.no_grad(), FlopCounterMode(display=False) as frozen:
        parts.vae.encode(pixels)
        parts.text_encoder(torch.zeros(1, 77, dtype=torch.long))

    class Denoising(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = parts.unet

        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.unet(batch["noisy"], 500, batch["states"]).sample.square().mean()

    latents = torch.randn(1, 4, side, side)
    trained = count_flops(
        Denoising(), {"noisy": latents, "states": states}, lambda: torch.autocast("cpu", enabled=False)
    )
    return frozen.get_total_flops() / trained


def write_images(folder: Path, count: int, preset_name: str = "small") -> Path:
    """Write a dataset folder of images of noise with one dark band, in the format of a preset; return it."""
    preset = load_preset(preset_name)
    (folder / "data").mkdir(parents=True)
    write_spectrogram(folder, preset)
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        image = rng.integers(200, 256, (preset.n_mels, preset.width_px)).astype(np.uint8)
        low = (5 * index) % (preset.n_mels - 18)
        image[low : low + 9] //= 4
        packed = io.BytesIO()
        Image.fromarray(image).save(packed, "PNG")
        rows.append(
            {
                "image": {"bytes": packed.getvalue(), "path": None},
                "caption": [f"band {index}"],
                "track_id": f"track-{index}",
                "start_s": 0.0,
                "duration_s": preset.clip_s,
                "loudness_lufs": -14.0,
                "max_value": 1e5,
                "source": f"{index}.wav",
            }
        )
    path = folder / "data" / shard_name("train", 0)
    table = pa.Table.from_pylist(rows, schema=arrow_schema())
    pq.write_table(table, path, row_group_size=ROWS_PER_BLOCK)  # as riffusion prepare does
    shard = {"name": path.name, "split": "train", "slices": count, "bytes": path.stat().st_size}
    (folder / "stats.json").write_text(json.dumps({"schema_version": 1, "fingerprint": "0" * 64, "shards": [shard]}))
    return folder
