"""Metrics of a run: `metrics.jsonl` always, a tracker where one is asked for, and the line on the terminal."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from riffusion_train.training.speed import Speedometer

_FIGURES = {
    "loss": "loss {:.4f}",
    "images_per_s": "{:.3g} images/s",
    "audio_s_per_s": "{:.3g} s of audio/s",
    "mfu_percent": "MFU {:.1f} %",
    "data_wait_percent": "data wait {:.1f} %",
    "peak_memory_gib": "{:.1f} GiB",
}
"""What of the averages is shown while it runs."""


class MetricsLog:
    """Collects losses without waiting for the device, and writes averages when they are due.

    Args:
        path: `metrics.jsonl`.
        accelerator: Averages over ranks, and feeds the tracker.
        speed: Measures the steps.
    """

    def __init__(self, path: Path, accelerator: Any, speed: Speedometer) -> None:
        self.path = path
        self.accelerator = accelerator
        self.speed = speed
        self.last: dict[str, float | None] = {}
        self._losses: list[Tensor] = []

    def resume_at(self, step: int) -> None:
        """Drop the lines that a stopped run wrote after its last checkpoint."""
        if not (self.accelerator.is_main_process and self.path.exists()):
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        self.path.write_text("".join(kept), encoding="utf-8")

    def add(self, loss: Tensor) -> None:
        """Take the loss of one step, a scalar on any device."""
        self._losses.append(loss.detach())

    def write(self, step: int, lr: float, grad_norm: Tensor) -> None:
        """Average what was added since the last call over steps and ranks, and write it."""
        mean = self.accelerator.reduce(torch.stack(self._losses).mean(), reduction="mean")
        # Reading the loss waits for the device; only then does the clock say how long the steps took.
        values = {"loss": float(mean), "lr": lr, "grad_norm": float(grad_norm), **self.speed.read(len(self._losses))}
        self.last = values
        self._losses.clear()
        if self.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        self.accelerator.log({key: value for key, value in values.items() if value is not None}, step=step)

    def figures(self) -> str:
        """Return the last averages that are worth seeing while it runs, on one line; empty before the first."""
        return ", ".join(
            template.format(self.last[key]) for key, template in _FIGURES.items() if self.last.get(key) is not None
        )
