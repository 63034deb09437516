"""Metrics of a run: `metrics.jsonl` always, a tracker where one is asked for, and the line on the terminal."""

import enum
import json
import os
import re
import secrets
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
from riffusion_train.training.run_folder import append_line, read_lines, reporting
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
        rows, unreadable = read_lines(self.path)
        numbered = [row for row in rows if isinstance(row.get("step"), int)]
        unreadable += len(rows) - len(numbered)
        if unreadable:
            self.distribution.print(f"warning: {self.path}: {unreadable} of its lines cannot be read and are dropped")
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in numbered if row["step"] <= step))

    def add(self, loss: Tensor) -> None:
        """Take the loss of one step, a scalar on any device."""
        self._losses.append(loss.detach())

    def write(self, step: int, lr: float, grad_norm: Tensor, others: Mapping[str, Tensor]) -> None:
        """Average what was added since the last call over steps and ranks, and write it, with other figures of the step."""
        mean = self.distribution.mean(torch.stack(self._losses).mean())
        # Reading the loss waits for the device; only then does the clock say how long the steps took.
        values = {"loss": float(mean), "lr": lr, "grad_norm": float(grad_norm), **self.speed.read(len(self._losses))}
        values |= {name: float(figure) for name, figure in others.items()}
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


_WANDB_ID_FILE = "wandb-id.txt"


def start_tracker(accelerator: Any, config: TrackerConfig, run: Path, values: Mapping[str, Any]) -> None:
    """Open the tracker of the config, and give it the run's settings. A resumed run continues its wandb run.

    Args:
        accelerator: Accelerate's `Accelerator`, made with `log_with`.
        config: Which tracker.
        run: The run folder: its name is the run's there, and wandb's files go into it.
        values: The settings by dotted key.
    """
    options: dict[str, Any] = {}
    settings: dict[str, Any] | None = {key: _plain(value) for key, value in values.items()}
    if config.name is TrackerName.files:
        settings = None
    elif config.name is TrackerName.tensorboard:  # takes no lists, and leaves out what is None
        settings = {key: str(value) if isinstance(value, list) else value for key, value in (settings or {}).items()}
    elif config.name is TrackerName.wandb:
        options = _wandb_options(config, run) if accelerator.is_main_process else {}
    elif config.name is TrackerName.trackio:
        options = {"name": run.name}
    with reporting(run):
        accelerator.init_trackers(config.project, config=settings, init_kwargs={config.name.value: options})


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it: the name of a choice, a number, a text, null, or a list of these."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, int | float | str | bool) else str(value)


def _wandb_options(config: TrackerConfig, run: Path) -> dict[str, Any]:
    """Return the arguments of `wandb.init`."""
    options: dict[str, Any] = {"dir": str(run), "name": run.name, "id": _wandb_id(run), "resume": "allow"}
    described = {"entity": config.entity, "group": config.group, "tags": config.tags, "notes": config.notes}
    return options | {key: value for key, value in described.items() if value}


def _wandb_id(run: Path) -> str:
    """Return the id of the run's wandb run, which is kept in its folder; one that wandb's agent has set comes first."""
    file = run / _WANDB_ID_FILE
    kept = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    known = os.environ.get("WANDB_RUN_ID") or (kept if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", kept) else "")
    if known != kept or not known:
        known = known or secrets.token_hex(4)
        with reporting(file):
            write_atomically(file, known + "\n")
    return known


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
