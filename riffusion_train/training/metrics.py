"""Metrics of a run: `metrics.jsonl` always, a tracker where one is asked for, and the line on the terminal."""

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from riffusion_train.config.errors import InputError
from riffusion_train.config.train import TrackerConfig, TrackerName


def check_tracker(config: TrackerConfig) -> None:
    """Refuse a tracker that is not installed, before anything else is done.

    Raises:
        InputError: With the command that installs it.
    """
    if config.name is not TrackerName.files and importlib.util.find_spec(config.name.value) is None:
        raise InputError(f"tracker={config.name.value} is not installed; pip install {config.name.value}")


class MetricsLog:
    """Collects losses without waiting for the device, and writes averages when they are due.

    Args:
        path: `metrics.jsonl`.
        accelerator: Averages over ranks, and feeds the tracker.
        images_per_step: Slices of one optimizer step over all ranks.
        clip_s: Seconds of audio of one slice.
    """

    def __init__(self, path: Path, accelerator: Any, *, images_per_step: int, clip_s: float) -> None:
        self.path = path
        self.accelerator = accelerator
        self.images_per_step = images_per_step
        self.clip_s = clip_s
        self.last_loss: float | None = None
        self._losses: list[Tensor] = []
        self._since = time.perf_counter()

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
        seconds = time.perf_counter() - self._since
        images_per_s = len(self._losses) * self.images_per_step / seconds
        self.last_loss = float(mean)
        values = {
            "loss": self.last_loss,
            "lr": lr,
            "grad_norm": float(grad_norm),
            "images_per_s": images_per_s,
            "audio_s_per_s": images_per_s * self.clip_s,
        }
        self._losses.clear()
        self._since = time.perf_counter()
        if self.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        self.accelerator.log(values, step=step)
