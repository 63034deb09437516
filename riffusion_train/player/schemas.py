"""The JSON of the interface as types: what FastAPI checks first and OpenAPI documents."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


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
