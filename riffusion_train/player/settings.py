"""What a listener can set, checked, and the JSON of the interface as types that OpenAPI documents."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.seed_images import SEED_IMAGES

MOST_SEED = 2**53 - 1
"""The largest whole number that JavaScript keeps exactly."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is taken from outside.

    Attributes:
        prompt_chars: Characters of a prompt.
        queue: Prompts that wait.
        message_bytes: A message on a socket.
        body_bytes: A request other than an upload.
        upload_bytes: An audio file.
        upload_s: Seconds of it that are read.
        uploads: Files that are kept; the oldest goes.
        clip_requests: Single clips that wait.
        sockets_per_address: Sockets of one address.
        most_steps: Denoising steps.
    """

    prompt_chars: int = 300
    queue: int = 20
    message_bytes: int = 4096
    body_bytes: int = 65536
    upload_bytes: int = 32 * 2**20
    upload_s: float = 60.0
    uploads: int = 16
    clip_requests: int = 8
    sockets_per_address: int = 64
    most_steps: int = 100


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """Everything that decides one clip of a model: between two prompts, and between the noises of two seeds.

    Attributes:
        prompt: Where the way from prompt to prompt begins.
        prompt_to: Where it ends; the same prompt where there is no way to go.
        alpha: How far on it, 0 to 1.
        negative_prompt: What it is led away from.
        seed: A seed.
        place: How far the noise has walked from that seed, in seeds: 1.5 is in the middle between `seed + 1` and `seed + 2`.
        guidance_scale: Classifier-free guidance.
        strength: How much of the seed image is changed.
        seed_image: One of our seed images by name, or none.
        seed_upload: The id of a sound that somebody uploaded, or none; it goes before `seed_image`.
        num_inference_steps: Denoising steps of a whole denoising.
    """

    prompt: str = ""
    prompt_to: str = ""
    alpha: float = 0.0
    negative_prompt: str = ""
    seed: int = 0
    place: float = 0.0
    guidance_scale: float = 7.0
    strength: float = 0.75
    seed_image: str | None = None
    seed_upload: str | None = None
    num_inference_steps: int = 20


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a session is told; with `prompt_to`, `alpha`, `place` and `before` it restores a moment exactly.

    Attributes:
        clips: Segments from one station to the next: the speed of the walk.
        before: The clip before the first segment, whose end the first segment begins with; None where there is none.

    The others are those of `ClipSpec`.
    """

    prompt: str = ""
    prompt_to: str | None = None
    alpha: float = 0.0
    negative_prompt: str = ""
    seed: int = 0
    place: float = 0.0
    guidance_scale: float = 7.0
    strength: float = 0.75
    seed_image: str | None = None
    seed_upload: str | None = None
    num_inference_steps: int = 20
    clips: int = 4
    before: ClipSpec | None = None

    def public(self) -> dict[str, Any]:
        """Return what a page shows and sends back."""
        hidden = {"prompt_to", "alpha", "before"}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in hidden}


Reader = Callable[[str, Any], Any]


class SettingsReader:
    """Reads settings from JSON.

    Args:
        limits: How much is taken.
        has_upload: Whether there is an upload of that id.
    """

    def __init__(self, limits: Limits, has_upload: Callable[[str], bool]) -> None:
        self._limits = limits
        self._has_upload = has_upload
        unit, steps = self._number(0, 1), self._whole(1, limits.most_steps)
        self._readers: dict[str, Reader] = {
            "prompt": self.prompt,
            "prompt_to": _or_none(self.prompt),
            "alpha": unit,
            "negative_prompt": self.prompt,
            "seed": self._whole(0, MOST_SEED),
            "place": self._number(0, 1e6),
            "guidance_scale": self._number(1, 30),
            "strength": unit,
            "seed_image": _or_none(self._seed_image),
            "seed_upload": _or_none(self._upload),
            "num_inference_steps": steps,
            "clips": self._whole(1, 64),
            "before": _or_none(self._before),
        }
        names = {field.name for field in dataclasses.fields(ClipSpec)}
        self._clip_readers = {name: read for name, read in self._readers.items() if name in names}
        self._clip_readers["prompt_to"] = self.prompt

    def changed(self, settings: Settings, data: Mapping[str, Any]) -> Settings:
        """Return settings with the values of `data` in place of theirs.

        Raises:
            InputError: If a key is unknown or a value cannot be used.
        """
        return dataclasses.replace(settings, **_read(data, self._readers))

    def clip(self, data: Mapping[str, Any], base: ClipSpec) -> ClipSpec:
        """Return a clip's description with the values of `data` in place of those of `base`; errors as of `changed`."""
        return dataclasses.replace(base, **_read(data, self._clip_readers))

    def prompt(self, key: str, value: Any) -> str:
        """Return a prompt on one line.

        Raises:
            InputError: If it is no text, or too long.
        """
        if not isinstance(value, str):
            raise InputError(f"{key}: must be a text")
        text = " ".join(value.split())
        if len(text) > self._limits.prompt_chars:
            raise InputError(f"{key}: {len(text)} characters are too many; at most {self._limits.prompt_chars}")
        if any(not character.isprintable() for character in text):
            raise InputError(f"{key}: holds characters that cannot be printed; leave them out")
        return text

    def _before(self, key: str, value: Any) -> ClipSpec:
        if not isinstance(value, Mapping):
            raise InputError(f"{key}: must be an object, as it stood in the segment's `share`")
        return self.clip(value, ClipSpec())

    def _seed_image(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or value not in SEED_IMAGES:
            raise InputError(f"{key}: is unknown; choose from: {', '.join(SEED_IMAGES)}, or null for none")
        return value

    def _upload(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not self._has_upload(value):
            raise InputError(f"{key}: is not here (any more); upload the sound again")
        return value

    @staticmethod
    def _number(least: float, most: float) -> Reader:
        def read(key: str, value: Any) -> float:
            fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not fits or not least <= value <= most:
                raise InputError(f"{key}: must be a number from {least:g} to {most:g}")
            return float(value)

        return read

    @staticmethod
    def _whole(least: int, most: int) -> Reader:
        def read(key: str, value: Any) -> int:
            if isinstance(value, float) and math.isfinite(value) and value.is_integer():
                value = int(value)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise InputError(f"{key}: must be a whole number from {least} to {most}")
            return value

        return read


def _read(data: Mapping[str, Any], readers: Mapping[str, Reader]) -> dict[str, Any]:
    unknown = sorted(set(data) - set(readers))
    if unknown:
        raise InputError(f"{unknown[0][:40]}: is no setting; choose from: {', '.join(readers)}")
    return {key: readers[key](key, value) for key, value in data.items()}


def _or_none(read: Reader) -> Reader:
    return lambda key, value: None if value is None else read(key, value)


class Body(BaseModel):
    """A request: every key is known, every value of the type that is named."""

    model_config = ConfigDict(extra="forbid", strict=True)

    def given(self) -> dict[str, Any]:
        """Return the keys that were sent."""
        return self.model_dump(exclude_unset=True)


class SettingsBody(Body):
    """Settings of a session; what is left out keeps its value. A segment's `share` is one of these."""

    prompt: str | None = Field(None, description="What is heard first; in a change, what is queued.")
    prompt_to: str | None = Field(None, description="Of a shared moment: the prompt it was on its way to.")
    alpha: float | None = Field(None, description="Of a shared moment: how far on that way, 0 to 1.")
    negative_prompt: str | None = Field(None, description="What the music is led away from.")
    seed: int | None = Field(None, description="The noise that the music is made of.")
    place: float | None = Field(None, description="How far the noise has walked from the seed, in seeds.")
    guidance_scale: float | None = Field(None, description="How strictly the prompt is followed; 1 is not at all.")
    strength: float | None = Field(None, description="How much of the seed image is changed, 0 to 1.")
    seed_image: str | None = Field(None, description="A seed image by name; null for none.")
    seed_upload: str | None = Field(None, description="The id of an upload to riff on; null for none.")
    num_inference_steps: int | None = Field(None, description="Denoising steps at most; fewer where time is short.")
    clips: int | None = Field(None, description="Segments from one prompt to the next: the speed of the walk.")
    before: dict[str, Any] | None = Field(None, description="Of a shared moment: the clip before it.")


class NewSession(SettingsBody):
    """A new session."""

    ticket: str | None = Field(None, description="The place in the line, from an answer 503.")


class Change(SettingsBody):
    """Changes of a session; `prompt` queues."""

    remove: str | None = Field(None, description="The id of a waiting prompt to take off the queue.")
    next: str | None = Field(None, description="The id of a waiting prompt that is to be the next.")


class ClipBody(Body):
    """One clip."""

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    guidance_scale: float = 7.0
    num_inference_steps: int | None = None
    format: str = Field("wav", description="wav, flac, mp3, ogg or opus")


class ClipAnswer(BaseModel):
    """One clip as data URIs, and how it was made."""

    audio: str
    image: str
    settings: dict[str, Any]


class SessionAnswer(BaseModel):
    """A session that has begun; its token steers it."""

    id: str
    token: str
    settings: dict[str, Any]
    queue: list[dict[str, Any]]


class ChangeAnswer(BaseModel):
    """A session after a change."""

    settings: dict[str, Any]
    queue: list[dict[str, Any]]
    takes_effect_at: int = Field(description="The first segment that is made with the change.")


class UploadAnswer(BaseModel):
    """An upload, for `seed_upload`."""

    id: str
    name: str
    duration_s: float


class ErrorAnswer(BaseModel):
    """What is wrong, and the mend, in one line."""

    error: str


class FullAnswer(ErrorAnswer):
    """All streams are taken."""

    position: int
    ticket: str
    retry_after_s: float


class OriginalBody(BaseModel):
    """The original server's request."""

    alpha: float
    num_inference_steps: int = 50
    seed_image_id: str = "og_beat"
    mask_image_id: None = None
    start: dict[str, Any] = Field(description="prompt, seed, negative_prompt, denoising, guidance")
    end: dict[str, Any] = Field(description="as start")


class OriginalAnswer(BaseModel):
    """The original server's answer: a JPEG and an MP3 as data URIs."""

    image: str
    audio: str
    duration_s: float
