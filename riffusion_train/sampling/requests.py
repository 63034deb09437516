"""What can be asked of a model: one frozen dataclass a mode, with everything that decides the clip besides the sampler."""

import dataclasses
import hashlib
from pathlib import Path
from typing import ClassVar

from riffusion_train.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file that a clip is made from, known by its content."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: str | Path) -> "SourceFile":
        """Return the file at `path`.

        Raises:
            InputError: If it cannot be read.
        """
        found = Path(path).expanduser()
        try:
            return cls(str(found.resolve()), hashlib.sha256(found.read_bytes()).hexdigest())
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; name a file that can be read") from None

    def unchanged(self) -> Path:
        """Return the path.

        Raises:
            InputError: If the file has gone or has another content than it had.
        """
        if SourceFile.of(self.path).sha256 != self.sha256:
            raise InputError(f"{self.path}: has changed since the clip was made; put back the file it was made from")
        return Path(self.path)


@dataclasses.dataclass(frozen=True)
class Request:
    """What every mode knows."""

    mode: ClassVar[str]

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    guidance_scale: float = 7.0


@dataclasses.dataclass(frozen=True)
class TextRequest(Request):
    """One clip from a prompt; without any at a guidance of 1 (unconditional)."""

    mode = "text"


@dataclasses.dataclass(frozen=True)
class AudioRequest(Request):
    """A sound of any length changed towards a prompt."""

    mode = "audio"

    source: SourceFile = SourceFile("", "")
    strength: float = 0.55
    """How much is changed: the share of the steps that is done; 0 leaves the picture as it is."""
    prompt_end: str | None = None
    """The prompt at the end of the sound, if it is another one; in between they are mixed."""


@dataclasses.dataclass(frozen=True)
class InpaintRequest(Request):
    """A sound of which some is made anew."""

    mode = "inpaint"

    source: SourceFile = SourceFile("", "")
    keep_s: tuple[tuple[float, float], ...] = ()
    """Ranges of time that stay; all else is made anew."""
    renew_s: tuple[tuple[float, float], ...] = ()
    """Ranges of time that are made anew; all else stays."""
    band_hz: tuple[float, float] | None = None
    """Only what lies between these frequencies is made anew."""
    mask: SourceFile | None = None
    """A picture over the whole sound: white is made anew, black stays."""
    strength: float = 1.0


@dataclasses.dataclass(frozen=True)
class ExtendRequest(Request):
    """A sound that goes on, or is led up to."""

    mode = "extend"

    source: SourceFile = SourceFile("", "")
    duration_s: float = 5.0
    """How much is added."""
    backwards: bool = False
    """Add before the sound in place of after it."""


@dataclasses.dataclass(frozen=True)
class LongRequest(Request):
    """One coherent piece of any length."""

    mode = "long"

    duration_s: float = 60.0
    schedule: tuple[tuple[float, str], ...] = ()
    """Prompts by the second from which they hold; `prompt` holds before the first."""
    volume: tuple[tuple[float, float], ...] = ()
    """Volume from 0 to 1 by the second, on straight lines: the level falls by 2 dB a tenth."""


@dataclasses.dataclass(frozen=True)
class LoopRequest(Request):
    """A loop without a seam."""

    mode = "loop"

    duration_s: float | None = None
    """About how long; a clip's width where it is not said."""
    bpm: float | None = None
    """Beats a minute, to which the length is snapped; the music is not made to follow them."""
    bars: int | None = None
    """Whole bars of `beats_per_bar`; the number nearest to the duration where it is not said."""
    beats_per_bar: int = 4


@dataclasses.dataclass(frozen=True)
class WalkRequest(Request):
    """From prompt to prompt without a break."""

    mode = "walk"

    prompts: tuple[str, ...] = ()
    """The stations; a single prompt walks from seed to seed."""
    clips: int = 4
    """Clips from a station to the next."""
    seed_image: str | None = None
    """A seed image by name, or null for none."""
    seed_file: SourceFile | None = None
    """A seed image, or a sound to make one of, in a file."""
    strength: float = 0.75
    strength_end: float | None = None
    guidance_end: float | None = None
    alpha_power: float = 1.0
    """Curve of the way between two stations: above 1 it begins slowly."""


@dataclasses.dataclass(frozen=True)
class MorphRequest(Request):
    """Steps from one sound to another."""

    mode = "morph"

    source: SourceFile = SourceFile("", "")
    target: SourceFile = SourceFile("", "")
    share: float = 0.5
    """How far on the way: 0 is the source, 1 the target."""


REQUESTS: dict[str, type[Request]] = {
    kind.mode: kind
    for kind in (
        TextRequest,
        AudioRequest,
        InpaintRequest,
        ExtendRequest,
        LongRequest,
        LoopRequest,
        WalkRequest,
        MorphRequest,
    )
}
"""The requests by the name of their mode."""
