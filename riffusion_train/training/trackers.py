"""Where metrics and previews go beside the run folder: TensorBoard, wandb or trackio, through Accelerate."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from riffusion_train.config.train import TrackerConfig, TrackerName
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.clip import Clip


def check_tracker(config: TrackerConfig) -> None:
    """Refuse a tracker that is not installed, before anything else is done.

    Accelerate would only warn and train without it.

    Raises:
        InputError: With the command that installs it.
    """
    if config.name is not TrackerName.files and importlib.util.find_spec(config.name.value) is None:
        raise InputError(f"tracker={config.name.value} is not installed; pip install {config.name.value}")


def start_tracker(accelerator: Any, config: TrackerConfig, run: Path, values: Mapping[str, Any]) -> None:
    """Open the tracker that was asked for, with the run's settings beside it.

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
    """Send clips, picture and sound, to every tracker. Called by the first rank.

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
        writer.add_text(f"prompt/{name}", clip.settings.prompt, step)
    writer.flush()


def _to_wandb(run: Any, clips: Mapping[str, Clip], step: int) -> None:
    import wandb

    sent: dict[str, Any] = {}
    for name, clip in clips.items():
        prompt = clip.settings.prompt
        sent[f"spectrogram/{name}"] = wandb.Image(clip.image, caption=prompt)
        sent[f"audio/{name}"] = wandb.Audio(clip.audio.T, sample_rate=clip.rate_hz, caption=prompt)
    run.log(sent, step=step)


def _to_trackio(run: Any, clips: Mapping[str, Clip], step: int) -> None:
    import trackio

    sent: dict[str, Any] = {}
    for name, clip in clips.items():
        prompt = clip.settings.prompt
        image = clip.image if clip.image.ndim == 3 else np.repeat(clip.image[:, :, None], 3, axis=2)
        samples = (np.clip(clip.audio.T, -1, 1) * 32767).astype(np.int16)  # (samples, channels)
        sent[f"spectrogram/{name}"] = trackio.Image(image, caption=prompt)
        sent[f"audio/{name}"] = trackio.Audio(samples, sample_rate=clip.rate_hz, format="wav", caption=prompt)
    run.log(sent, step=step)


def _mono(clip: Clip) -> np.ndarray:
    """Return the audio as (1, samples), which is all that TensorBoard's writer takes."""
    return clip.audio.mean(axis=0, keepdims=True)
