"""What all modes share: the request, the files that it names, and the plain data that a mode returns."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from riffusion_train.config.sample import Quality
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import StepReport


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
