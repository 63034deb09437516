"""The shapes of requests and answers, and their TypeScript: `python -m riffusion_train.player.bodies` writes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from riffusion_train.player.settings import (
    LoraFader,
    Part,
    Prompt,
    PromptSettings,
    Settings,
    Whole,
    settings_schema,
)


class NewSession(Settings):
    """A new session."""

    ticket: str | None = Field(default=None, description="The place in the waiting line, from an answer 503.")


class Change(Settings):
    """Changes of a session; `prompt` queues, everything else is heard as soon as it can be."""

    now: Prompt | None = Field(default=None, description="A prompt that is heard at once, instead of the present one.")
    played_sample: Whole | None = Field(
        default=None,
        ge=0,
        le=2**53 - 1,
        description="The sample that its sender hears; null for what was reported last.",
    )

    remove: str | None = Field(default=None, description="The id of a waiting prompt to remove from the queue.")
    next: str | None = Field(default=None, description="The id of a waiting prompt that is to be the next.")


class ClipBody(PromptSettings):
    """One clip."""

    prompt: Prompt = Field(description="What is heard.")
    format: str = Field(default="wav", description="wav, flac, mp3, ogg or opus")

    @model_validator(mode="before")
    @classmethod
    def _null_steps(cls, data: Any) -> Any:
        """Take null for the player's own number of steps."""
        if isinstance(data, dict) and data.get("num_inference_steps", 0) is None:
            return {key: value for key, value in data.items() if key != "num_inference_steps"}
        return data


class ClipAnswer(BaseModel):
    """One clip as data URIs, and how it was made."""

    audio: str
    image: str
    settings: dict[str, Any]


class QueueItem(BaseModel):
    """A prompt of a session, as a page shows it."""

    id: str
    prompt: str
    state: Literal["past", "playing", "next", "waiting"]
    from_segment: int | None


class SessionAnswer(BaseModel):
    """A session that has begun; its token steers it."""

    id: str
    token: str
    settings: dict[str, Any]
    queue: list[QueueItem]


class ChangeAnswer(BaseModel):
    """A session after a change."""

    settings: dict[str, Any]
    queue: list[QueueItem]
    takes_effect_at: int = Field(
        description="The first segment that is made with the change, as far as it is known now."
    )
    change: int | None = Field(
        description="The number of the change that is heard with it, as segments name it; null for none."
    )
    delay_s: float = Field(description="Seconds until it should be heard.")


class UploadAnswer(BaseModel):
    """An upload, for `seed_upload`."""

    id: str
    name: str
    duration_s: float


class ErrorAnswer(BaseModel):
    """What is wrong and how to fix it, in one line."""

    error: str


class FullAnswer(ErrorAnswer):
    """All streams are taken."""

    position: int
    ticket: str
    retry_after_s: float = Field(description="When to ask again; a ticket that is not asked for lapses soon after.")


class OriginalBody(BaseModel):
    """The original server's request."""

    alpha: float
    num_inference_steps: int = 50
    seed_image_id: str = "og_beat"
    mask_image_id: Literal[""] | None = None
    start: dict[str, Any] = Field(description="prompt, seed, negative_prompt, denoising, guidance")
    end: dict[str, Any] = Field(description="as start")


class OriginalAnswer(BaseModel):
    """The original server's answer: a JPEG and an MP3 as data URIs."""

    image: str
    audio: str
    duration_s: float


_TYPES_FILE = Path(__file__).parent / "static" / "types.d.ts"
_TYPES_HEAD = "// Written by `python -m riffusion_train.player.bodies` from the models of the server; do not edit.\n"


def typescript_types() -> str:
    """Return `static/types.d.ts`: the settings that a page shows, and other shapes of the interface, as TypeScript."""
    shapes: dict[str, dict[str, Any]] = {"Settings": settings_schema()}
    for model in (Part, LoraFader, QueueItem, UploadAnswer):
        shapes[model.__name__] = model.model_json_schema()["properties"]
    blocks = []
    for name, properties in shapes.items():
        fields = [f"  {key}: {_typescript_type(schema)};\n" for key, schema in properties.items()]
        blocks.append(f"\nexport interface {name} {{\n{''.join(fields)}}}\n")
    return _TYPES_HEAD + "".join(blocks)


def _typescript_type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join(_typescript_type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(f'"{value}"' for value in schema["enum"])
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if schema["type"] == "array":
        return f"{_typescript_type(schema['items'])}[]"
    return {"integer": "number"}.get(schema["type"], schema["type"])


if __name__ == "__main__":
    _TYPES_FILE.write_text(typescript_types(), encoding="utf-8")
