"""What a listener can set, and what restores a moment: one pydantic model, and the errors of what cannot be used.

`Settings` is the only list of the settings. The server checks requests with it, `/api/choices` serves its schema, from which
the page builds its fields, and `python -m riffusion_train.player.bodies` writes `static/types.d.ts` from it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from riffusion_train.config.sample import PlayConfig
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.sources import SEED_IMAGES
from riffusion_train.sampling.text import parse_weights

if TYPE_CHECKING:
    from riffusion_train.sampling.sampler import Sampler

MAX_SEED = 2**53 - 1
"""The largest whole number that JavaScript keeps exactly."""
MAX_STEPS = 100
MAX_PROMPT_CHARS = 300
MAX_MIXED = 4
"""Prompts that can be mixed."""

DEFAULT_PROMPT = "a slow piano in an empty house, rain outside"


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much clients may send and ask for.

    Attributes:
        queue: Prompts that wait.
        message_bytes: A message on a socket.
        body_bytes: A request other than an upload.
        upload_bytes: An audio file.
        upload_s: Seconds of it that are read.
        uploads: Files that are kept; the oldest is dropped.
        clip_requests: Single clips that wait.
        sockets_per_address: Sockets of one address.
    """

    queue: int = 20
    message_bytes: int = 4096
    body_bytes: int = 65536
    upload_bytes: int = 32 * 2**20
    upload_s: float = 60.0
    uploads: int = 16
    clip_requests: int = 8
    sockets_per_address: int = 64


def _fault(text: str) -> PydanticCustomError:
    return PydanticCustomError("fault", "{text}", {"text": text})


def _whole(value: Any) -> Any:
    """Accept 3.0 for 3: some clients know only one kind of number."""
    return int(value) if isinstance(value, float) and math.isfinite(value) and value.is_integer() else value


def _one_line(text: str) -> str:
    """Return a prompt on one line."""
    line = " ".join(text.split())
    if len(line) > MAX_PROMPT_CHARS:
        raise _fault(f"{len(line)} characters are too many; at most {MAX_PROMPT_CHARS}")
    if not line.isprintable():
        raise _fault("contains characters that cannot be printed; remove them")
    try:
        parse_weights(line)
    except InputError as error:
        raise _fault(str(error).removeprefix("prompt: ")) from None
    return line


def _known_image(name: str) -> str:
    if name not in SEED_IMAGES:
        raise _fault(f"is unknown; choose from: {', '.join(SEED_IMAGES)}, or null for none")
    return name


def _known_upload(id: str, info: ValidationInfo) -> str:
    """Check that there is such an upload, where the context of the validation can say it."""
    if info.context is not None and not info.context(id):
        raise _fault("does not exist (any more); upload the audio again")
    return id


def _as_tuple(value: Any) -> Any:
    """Accept the lists of JSON."""
    return tuple(value) if isinstance(value, list) else value


def _known_loras(faders: Any, info: ValidationInfo) -> Any:
    """Check that no LoRA is named twice."""
    if len({fader.name for fader in faders}) < len(faders):
        raise _fault("names a LoRA twice; give each once")
    return faders


Whole = Annotated[int, BeforeValidator(_whole)]
Prompt = Annotated[str, AfterValidator(_one_line), WithJsonSchema({"type": "string", "maxLength": MAX_PROMPT_CHARS})]
SeedImage = Annotated[str, AfterValidator(_known_image), WithJsonSchema({"type": "string", "enum": list(SEED_IMAGES)})]
UploadId = Annotated[str, AfterValidator(_known_upload)]


def _control(order: int, control: str, **details: Any) -> dict[str, Any]:
    """Return what the page needs for the field of a setting, which is the `order`-th one.

    A slider's range, `minimum`, `maximum` and `step`, may be narrower than what is accepted.
    """
    return {"order": order, "control": control, **({control: details} if details else {})}


class Body(BaseModel):
    """A request: every key is known, every value has the documented type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    def given(self) -> dict[str, Any]:
        """Return the keys that were sent."""
        return self.model_dump(exclude_unset=True)


class PromptSettings(Body):
    """What a clip of one prompt needs: the settings that single clips and streams share."""

    prompt: Prompt = Field(default="", description="What is heard first; in a change of a session, what is queued.")
    negative_prompt: Prompt = Field(
        default="", title="What to leave out", description="What the music is led away from.",
        json_schema_extra=_control(5, "text"),
    )  # fmt: skip
    seed: Whole = Field(
        default=0, ge=0, le=MAX_SEED, title="Seed: the noise it starts from",
        description="The noise that the music is made of.", json_schema_extra=_control(6, "seed"),
    )  # fmt: skip
    guidance_scale: float = Field(
        default=7.0, ge=1, le=30, title="How closely it follows the prompt",
        description="How strictly the prompt is followed; 1 is not at all.",
        json_schema_extra=_control(2, "slider", minimum=1, maximum=15, step=0.5),
    )  # fmt: skip
    num_inference_steps: Whole = Field(
        default=20, ge=1, le=MAX_STEPS, title="Denoising steps of each clip",
        description="Denoising steps at most; fewer where time is short.",
        json_schema_extra=_control(4, "slider", minimum=1, maximum=MAX_STEPS, step=1),
    )  # fmt: skip


class Part(Body):
    """A further prompt of a mix."""

    model_config = ConfigDict(frozen=True)

    prompt: Prompt = Field(description="What is mixed in.")
    weight: float = Field(
        default=1.0, ge=0, le=1, description="How much of it, 0 to 1; only the ratio of the weights counts."
    )


class LoraFader(Body):
    """How strong a LoRA is that the player was started with."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(max_length=200, description="Its name, as `/api/choices` lists it.")
    scale: float = Field(ge=-4, le=4, description="Its strength; 0 is none, 1 is as it was trained.")


class ClipSpec(PromptSettings):
    """Everything that decides one clip of a model: between two prompts, and between the noises of two seeds."""

    model_config = ConfigDict(frozen=True)

    prompt_to: Prompt | None = Field(
        default=None, description="The prompt that the transition leads to; null for the same prompt."
    )
    alpha: float = Field(default=0.0, ge=0, le=1, description="How far the transition has come, 0 to 1.")
    place: float = Field(
        default=0.0, ge=0, le=1e6,
        description="How far the noise has moved from the seed, in seeds: 1.5 is halfway between seed + 1 and seed + 2.",
    )  # fmt: skip
    strength: float = Field(
        default=0.75, ge=0, le=1, title="How freely it leaves the groove",
        description="How much of the seed image is changed, 0 to 1; without one, how much a change alters what was to come.",
        json_schema_extra=_control(1, "slider", minimum=0.2, maximum=1, step=0.01),
    )  # fmt: skip
    seed_image: SeedImage | None = Field(
        default=None, title="Groove", description="A seed image by name; null for none.",
        json_schema_extra=_control(0, "groove"),
    )  # fmt: skip
    guidance_from: Whole = Field(
        default=0, ge=0, le=1000, title="Follows it in the first steps only",
        description="The lowest timestep that is guided: 0 guides all steps, 300 those that decide what is heard.",
        json_schema_extra=_control(7, "slider", minimum=0, maximum=900, step=50),
    )  # fmt: skip
    guidance_rescale: float = Field(
        default=0.0, ge=0, le=1, title="Evens out strong guidance",
        description="Share by which a guided step gets the spread of an unguided one.",
        json_schema_extra=_control(8, "slider", minimum=0, maximum=1, step=0.05),
    )  # fmt: skip
    seed_upload: UploadId | None = Field(
        default=None, description="The id of an upload to riff on, instead of `seed_image`; null for none."
    )
    prompt_weight: float = Field(default=1.0, ge=0, le=1, description="How much of the prompt is in the mix, 0 to 1.")
    mix: Annotated[tuple[Part, ...], BeforeValidator(_as_tuple)] = Field(
        default=(), max_length=MAX_MIXED - 1, description="Further prompts that are mixed with it, at most three."
    )
    loras: Annotated[tuple[LoraFader, ...], BeforeValidator(_as_tuple), AfterValidator(_known_loras)] = Field(
        default=(), max_length=16, description="The strengths of the player's LoRAs; one that is left out has its own."
    )
    phase: Whole = Field(
        default=0,
        ge=0,
        le=4096,
        description="Where in the groove it begins, in columns of latents; the player sets it.",
    )


class Turn(Body):
    """A change that was made to a clip while it played. Positions count from the beginning of the clip."""

    model_config = ConfigDict(frozen=True)

    column: Whole = Field(
        ge=0, le=2**32, description="The first column of latents that was drawn anew; those before it stood."
    )
    sample: Whole = Field(ge=0, le=MAX_SEED, description="The sample from which the change was heard.")
    clip: ClipSpec = Field(description="What it was changed to.")


Turns = Annotated[tuple[Turn, ...], BeforeValidator(_as_tuple)]
MAX_TURNS = 6
"""Changes to one clip; the next one begins another clip, so that a moment is restored in bounded time."""


class Settings(ClipSpec):
    """Settings of a session; what is left out keeps its value. The `share` of a segment is one of these.

    With the settings that `MOMENT` names, and `place` and `phase`, they restore a moment exactly: they are the log of what was
    asked for, as far as the moment depends on it.
    """

    clips: Whole = Field(
        default=4, ge=1, le=64, title="How long a transition takes",
        description="Segments from one prompt to the next: the speed of the music's changes.",
        json_schema_extra=_control(3, "slider", minimum=1, maximum=12, step=1),
    )  # fmt: skip
    before: ClipSpec | None = Field(
        default=None,
        description="The clip before the first segment, which begins with the end of that clip; null for none.",
    )
    before_turns: Turns = Field(
        default=(), max_length=MAX_TURNS, description="The changes that were made to that clip."
    )
    before_left: Whole | None = Field(
        default=None, ge=0, le=MAX_SEED, description="The sample at which that clip was left; null for its end."
    )
    opening: ClipSpec | None = Field(
        default=None, description="With `turns`: what the first segment's clip was before its changes; null for none."
    )
    turns: Turns = Field(default=(), max_length=MAX_TURNS, description="The changes that were made to the first clip.")

    def public(self) -> dict[str, Any]:
        """Return what a page shows and sends back."""
        return self.model_dump(exclude=set(MOMENT))

    def shared(self) -> dict[str, Any]:
        """Return what restores a moment, short: of clips within it, only what is not usual."""
        nested = {name: getattr(self, name) for name in ("before", "opening", "before_turns", "turns")}
        short = {
            name: [one.model_dump(exclude_defaults=True) for one in value] if isinstance(value, tuple)
            else None if value is None else value.model_dump(exclude_defaults=True)
            for name, value in nested.items()
        }  # fmt: skip
        return self.model_dump() | short

    def clip(self, **changes: Any) -> ClipSpec:
        """Return the clip that these settings describe, with some values replaced."""
        return ClipSpec.model_construct(**{**{name: getattr(self, name) for name in ClipSpec.model_fields}, **changes})


MOMENT = ("prompt_to", "alpha", "phase", "before", "before_turns", "before_left", "opening", "turns")
"""The settings that only restore a moment: a session that plays does not accept them."""


Model = TypeVar("Model", bound=ClipSpec)


def apply_changes(settings: Model, data: Mapping[str, Any], has_upload: Callable[[str], bool]) -> Model:
    """Return settings, or a clip, with the values of some JSON instead of theirs.

    Args:
        settings: What is changed.
        data: New values by name.
        has_upload: Whether there is an upload with that id.

    Raises:
        InputError: If a key is unknown or a value cannot be used.
    """
    try:
        read = type(settings).model_validate(dict(data), context=has_upload)
    except ValidationError as error:
        raise InputError(describe_errors(error.errors(), type(settings))) from None
    return settings.model_copy(update={name: getattr(read, name) for name in read.model_fields_set})


def make_settings(config: PlayConfig, sampler: "Sampler | None" = None) -> Settings:
    """Return the settings that sessions begin with.

    Args:
        config: The options of the command.
        sampler: The loaded model, whose options are taken where the command gave none; None leaves those at ours.

    Raises:
        InputError: If a value cannot be used.
    """
    chosen: dict[str, Any] = {"prompt": config.prompt or first_prompt(sampler), "seed_image": config.seed_image}
    if sampler is None:
        names = ("guidance_scale", "num_inference_steps", "guidance_rescale")
        chosen |= {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    else:
        chosen |= settings_of(sampler)
    return apply_changes(Settings(), chosen, lambda id: False)


def first_prompt(sampler: "Sampler | None") -> str:
    """Return the prompt that sessions begin with where none is asked for: the model's first one, or ours."""
    prompts = () if sampler is None else sampler.components.prompts
    return next((prompt for prompt in prompts if len(prompt) <= MAX_PROMPT_CHARS), DEFAULT_PROMPT)


def settings_of(sampler: "Sampler") -> dict[str, Any]:
    """Return the settings that a sampler's options decide."""
    return {
        "guidance_scale": sampler.guidance_scale,
        "num_inference_steps": sampler.num_inference_steps,
        "guidance_rescale": sampler.guidance.rescale,
        "guidance_from": round(min(sampler.guidance.interval[0], 1000)),
    }


def describe_errors(errors: Sequence[Any], model: type[BaseModel] | None = None) -> str:
    """Return the first of pydantic's errors as one line that names the field and says what it must be.

    Args:
        errors: The errors, as dictionaries.
        model: The model whose fields an unknown key is answered with; None refers to the documentation instead.
    """
    kind, text, path = errors[0]["type"], errors[0]["msg"], list(errors[0]["loc"])
    if path and path[0] in ("body", "query", "path"):
        del path[0]
    if kind == "json_invalid":
        return f"the body is not valid JSON: {text}"
    if not path:
        return "the body must be a JSON object; see /openapi.json"
    name = ".".join("".join(filter(str.isprintable, str(part)))[:40] for part in path)
    if kind == "extra_forbidden":
        known = None if model is None else ClipSpec if len(path) > 1 else model
        options = "see /openapi.json" if known is None else f"choose from: {', '.join(known.model_fields)}"
        return f"{name}: is not a setting; {options}"
    if kind == "missing":
        return f"{name}: is missing"
    if kind == "fault":
        return f"{name}: {text}"
    inner = path[0] in ("before", "opening") and len(path) > 1
    schema = ClipSpec.model_json_schema() if inner else Settings.model_json_schema()
    requirement = _requirement(schema["properties"].get(str(path[-1]), {}))
    return f"{name}: {requirement or f'{text}; see /openapi.json'}"


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema of each setting that a page can show, by name."""
    properties: dict[str, Any] = Settings.model_json_schema()["properties"]
    return {name: schema for name, schema in properties.items() if name not in MOMENT}


def _requirement(field: Mapping[str, Any]) -> str | None:
    """Return what a field of a JSON schema must be, in words; None where the schema does not say it."""
    options = [field, *field.get("anyOf", [])]
    if any("$ref" in option for option in options):
        return "must be an object, as it was in the segment's `share`"
    kinds = {option.get("type") for option in options}
    noun = "a whole number" if "integer" in kinds else "a number" if "number" in kinds else None
    if noun is None:
        return "must be text" if "string" in kinds else None
    bounds = [("from", field.get("minimum")), ("to", field.get("maximum"))]
    return " ".join([f"must be {noun}", *(f"{word} {bound:.17g}" for word, bound in bounds if bound is not None)])
