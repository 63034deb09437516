"""Metrics of a run: `metrics.jsonl` always, a tracker where one is asked for, and the line on the terminal."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from riffusion_train.config.train import TrackerConfig, TrackerName
from riffusion_train.runtime.files import write_atomically
from riffusion_train.sampling.clip import Clip
from riffusion_train.training.distribution import Distribution
from riffusion_train.training.run_folder import append_line
from riffusion_train.training.throughput import Speedometer

_FIGURES = {
    "loss": "loss {:.4f}",
    "images_per_s": "{:.3g} images/s",
    "audio_s_per_s": "{:.3g} s of audio/s",
    "mfu_percent": "MFU {:.1f} %",
    "data_wait_percent": "data wait {:.1f} %",
    "peak_memory_gib": "{:.1f} GiB",
}
"""The averages that are shown while a run is going."""


class MetricsLog:
    """Collects losses without waiting for the device, and writes averages when they are due.

    Args:
        path: `metrics.jsonl`.
        distribution: Averages over ranks, and feeds the tracker.
        speed: Measures the steps.
    """

    def __init__(self, path: Path, distribution: Distribution, speed: Speedometer) -> None:
        self.path = path
        self.distribution = distribution
        self.speed = speed
        self.last: dict[str, float | None] = {}
        self._losses: list[Tensor] = []

    def resume_at(self, step: int) -> None:
        """Drop the lines that a stopped run wrote after its last checkpoint."""
        if not (self.distribution.is_main and self.path.exists()):
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_atomically(self.path, "".join(kept))

    def add(self, loss: Tensor) -> None:
        """Take the loss of one step, a scalar on any device."""
        self._losses.append(loss.detach())

    def write(self, step: int, lr: float, grad_norm: Tensor) -> None:
        """Average what was added since the last call over steps and ranks, and write it."""
        mean = self.distribution.mean(torch.stack(self._losses).mean())
        # Reading the loss waits for the device; only then does the clock say how long the steps took.
        values = {"loss": float(mean), "lr": lr, "grad_norm": float(grad_norm), **self.speed.read(len(self._losses))}
        self.last = values
        self._losses.clear()
        if self.distribution.is_main:
            append_line(self.path, {"step": step, **values})
        self.distribution.log({key: value for key, value in values.items() if value is not None}, step)

    def figures(self) -> str:
        """Return the last averages that are shown while a run is going, on one line; empty before the first."""
        return ", ".join(
            template.format(self.last[key]) for key, template in _FIGURES.items() if self.last.get(key) is not None
        )


def start_tracker(accelerator: Any, config: TrackerConfig, run: Path, values: Mapping[str, Any]) -> None:
    """Open the tracker of the config, and give it the run's settings.

    Args:
        accelerator: Accelerate's `Accelerator`, made with `log_with`.
        config: Which tracker.
        run: The run folder: its name is the run's there, and wandb's files go into it.
        values: The settings by dotted key.
    """
    options: dict[str, dict[str, Any]] = {
        "wandb": {"dir": str(run), "name": run.name},
        "trackio": {"name": run.name},
    }
    plain = {key: value if isinstance(value, int | float | str | bool) else str(value) for key, value in values.items()}
    accelerator.init_trackers(
        config.project,
        config=plain if config.name is not TrackerName.files else None,
        init_kwargs={name: kinds for name, kinds in options.items() if name == config.name.value},
    )


def track_clips(accelerator: Any, clips: Mapping[str, Clip], step: int) -> None:
    """Send clips, image and sound, to every tracker. Called on the first rank.

    Args:
        accelerator: Accelerate's `Accelerator`.
        clips: By a name that stays the same from preview to preview.
        step: Optimizer steps done.
    """
    senders = {"tensorboard": _to_tensorboard, "wandb": _to_wandb, "trackio": _to_trackio}
    for tracker in accelerator.trackers:
        senders[tracker.name](tracker.tracker, clips, step)


def _to_tensorboard(writer: Any, clips: Mapping[str, Clip], step: int) -> None:
    for name, clip in clips.items():
        writer.add_image(f"spectrogram/{name}", clip.image, step, dataformats="HW" if clip.image.ndim == 2 else "HWC")
        writer.add_audio(f"audio/{name}", _mono(clip), step, sample_rate=clip.rate_hz)
        writer.add_text(f"prompt/{name}", clip.record.prompt, step)
    writer.flush()


def _to_wandb(run: Any, clips: Mapping[str, Clip], step: int) -> None:
    import wandb

    sent: dict[str, Any] = {}
    for name, clip in clips.items():
        prompt = clip.record.prompt
        sent[f"spectrogram/{name}"] = wandb.Image(clip.image, caption=prompt)
        sent[f"audio/{name}"] = wandb.Audio(clip.audio.T, sample_rate=clip.rate_hz, caption=prompt)
    run.log(sent, step=step)


def _to_trackio(run: Any, clips: Mapping[str, Clip], step: int) -> None:
    import trackio

    sent: dict[str, Any] = {}
    for name, clip in clips.items():
        prompt = clip.record.prompt
        image = clip.image if clip.image.ndim == 3 else np.repeat(clip.image[:, :, None], 3, axis=2)
        samples = (np.clip(clip.audio.T, -1, 1) * 32767).astype(np.int16)  # (samples, channels)
        sent[f"spectrogram/{name}"] = trackio.Image(image, caption=prompt)
        sent[f"audio/{name}"] = trackio.Audio(samples, sample_rate=clip.rate_hz, format="wav", caption=prompt)
    run.log(sent, step=step)


def _mono(clip: Clip) -> np.ndarray:
    """Return the audio as (1, samples), which is the only layout that TensorBoard's writer accepts."""
    return clip.audio.mean(axis=0, keepdims=True)
