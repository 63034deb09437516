"""What all modes share: the request, the files that it names, and the plain data that a mode returns; and the plainest mode.

That is text to audio: clips of the model's own length.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from riffusion_train.config.spectrogram import Quality
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.pipeline import Pipeline
from riffusion_train.sampling.sources import initial_noise


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file that a clip is made from, identified by its content."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: str | Path) -> "SourceFile":
        """Return the file at `path`.

        Raises:
            InputError: If it cannot be read.
        """
        expanded = Path(path).expanduser()
        try:
            return cls(str(expanded.resolve()), hashlib.sha256(expanded.read_bytes()).hexdigest())
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; name a file that can be read") from None

    def unchanged(self) -> Path:
        """Return the path.

        Raises:
            InputError: If the file no longer exists or its content has changed.
        """
        if SourceFile.of(self.path).sha256 != self.sha256:
            raise InputError(f"{self.path}: has changed since the clip was made; restore the file it was made from")
        return Path(self.path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to make. Each mode has a subclass, which holds everything that decides the clip besides the sampler."""

    mode: ClassVar[str]

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    guidance_scale: float = 7.0


@dataclasses.dataclass(frozen=True)
class ModeOptions:
    """How to make it: what the sampler passes to every mode."""

    num_inference_steps: int
    quality: Quality
    report: StepReport | None = None


@dataclasses.dataclass(frozen=True)
class ClipData:
    """What most modes return: an image and its sound."""

    image: np.ndarray
    """uint8 (n_mels, width) for mono, (n_mels, width, 3) for stereo."""
    audio: np.ndarray
    """float32 (channels, samples)."""
    keep_level: bool = False
    """Whether the sound keeps its level, because parts of it are samples of a source."""


@dataclasses.dataclass(frozen=True)
class StreamData:
    """What modes of any length return: an image that is made column by column, and how to turn it into sound."""

    images: Iterator[np.ndarray]
    """The columns in order, some in each image."""
    columns: int | None = None
    """Where to cut the image off."""
    samples: int | None = None
    """Where to cut the sound off."""
    max_value: float | None = None
    """The magnitude that black stands for, where it is known."""
    gain_at: Callable[[np.ndarray], np.ndarray] | None = None
    """Gain of the sound at times in seconds, (samples,) -> (samples,)."""


_FADE_S = 0.005


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRequest(Request):
    """One clip from a prompt; with an empty prompt and a guidance of 1 it is unconditional."""

    mode = "text"


def make_text(pipeline: Pipeline, requests: Sequence[TextRequest], options: ModeOptions) -> Iterator[ClipData]:
    """Yield the clips of requests, which are denoised together."""
    codec = pipeline.codec
    for request, image in zip(requests, make_images(pipeline, requests, options), strict=True):
        wav = codec.decode(image, quality=options.quality, seed=request.seed)
        yield ClipData(image, fade_edges(wav, codec.rate_hz))


def make_images(pipeline: Pipeline, requests: Sequence[TextRequest], options: ModeOptions) -> list[np.ndarray]:
    """Return the images of requests: uint8 (n_mels, width) for mono, (n_mels, width, 3) for stereo."""
    conditions = [
        pipeline.texts.condition(request.prompt, request.negative_prompt, request.guidance_scale)
        for request in requests
    ]
    seeds = [request.seed for request in requests]
    noise = torch.stack([initial_noise(seed, pipeline.latent_shape) for seed in seeds])  # (B, C, h, w)
    latents = pipeline.denoise(
        noise, conditions, num_inference_steps=options.num_inference_steps, seeds=seeds, report=options.report
    )
    return [pipeline.decode(row) for row in latents]


def fade_edges(audio: np.ndarray, rate_hz: int) -> np.ndarray:
    """Fade the first and last 5 ms of (channels, samples): an image begins and ends in the middle of sound."""
    length = min(round(_FADE_S * rate_hz), audio.shape[1] // 2)
    gain = np.ones(audio.shape[1], dtype=np.float32)
    gain[:length] = np.sin(np.linspace(0, np.pi / 2, length)) ** 2
    gain[-length:] = gain[:length][::-1]
    return audio * gain
