"""Single clips for scripts: our own request, and the original Riffusion server's, whose clients can point here."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image

from riffusion_train.audio.marking import encode_image
from riffusion_train.audio.write import encode_audio
from riffusion_train.player.bodies import ClipBody
from riffusion_train.player.clips import ClipMaker
from riffusion_train.player.segments import encode_png
from riffusion_train.player.settings import MAX_SEED, ClipSpec, apply_changes
from riffusion_train.runtime.errors import InputError, choice
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.modes.base import TextRequest

MIME_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg; codecs=opus",
}

ORIGINAL_SEED_IMAGES = {
    "og_beat": "beats",
    "agile": "plucked",
    "marim": "plucked",
    "motorway": "half_time",
    "vibes": "pad",
}
"""The original's names for seed images, and which of ours, which are composed and not copied, each one gets."""

_ORIGINAL_DEFAULT_STEPS = 50


def clip_request(body: ClipBody, default_steps: int) -> tuple[TextRequest, int, str]:
    """Return the request, the denoising steps and the audio format of a clip.

    Raises:
        InputError: If there is no such format.
    """
    audio_format = choice("format", body.format, MIME_TYPES)
    steps = body.num_inference_steps if "num_inference_steps" in body.model_fields_set else default_steps
    request = TextRequest(
        prompt=body.prompt,
        negative_prompt=body.negative_prompt,
        seed=body.seed,
        guidance_scale=body.guidance_scale,
    )
    return request, steps, audio_format


def make_clip(
    maker: ClipMaker, request: TextRequest, steps: int, audio_format: str, report: StepReport
) -> dict[str, Any]:
    """Make one clip of a prompt: audio and image as data URIs, and its settings."""
    clip = maker.sampler.make(request, report, num_inference_steps=steps)
    mark = clip.record.mark
    return {
        "audio": _data_uri(MIME_TYPES[audio_format], encode_audio(clip.audio, clip.rate_hz, audio_format, mark)),
        "image": _data_uri("image/png", encode_png(clip.image, mark)),
        "settings": _without_paths(clip.record.as_data()),
    }


class OriginalRequest(NamedTuple):
    """What the original's `/run_inference/` was asked: two ends, and in `start.alpha` how far between them the clip lies."""

    start: ClipSpec
    end: ClipSpec

    @property
    def spec(self) -> ClipSpec:
        """The clip, with guidance and strength between those of the ends."""
        start, end, alpha = self.start, self.end, self.start.alpha
        change = {
            "prompt_to": end.prompt,
            "guidance_scale": start.guidance_scale + alpha * (end.guidance_scale - start.guidance_scale),
            "strength": start.strength + alpha * (end.strength - start.strength),
        }
        return start.model_copy(update=change)


def original_request(data: Any) -> OriginalRequest:
    """Read a request of the original's clients.

    Raises:
        InputError: If a value is missing, unknown, or of the wrong type.
    """
    if not isinstance(data, dict):
        raise InputError("the body must be a JSON object")
    for key in ("alpha", "start", "end"):
        if key not in data:
            raise InputError(f'missing value for field "{key}"')
    seed_image = data.get("seed_image_id", "og_beat")
    if not isinstance(seed_image, str) or seed_image not in ORIGINAL_SEED_IMAGES:
        raise InputError(f"seed_image_id: is unknown; choose from: {', '.join(ORIGINAL_SEED_IMAGES)}")
    if data.get("mask_image_id"):  # the original app sends an empty text for no mask
        raise InputError("mask_image_id: masks are not supported; leave it out, or send null or an empty text")
    common = {
        "alpha": data["alpha"],
        "num_inference_steps": data.get("num_inference_steps", _ORIGINAL_DEFAULT_STEPS),
        "seed_image": ORIGINAL_SEED_IMAGES[seed_image],
    }
    return OriginalRequest(*(_original_end(data, key, common) for key in ("start", "end")))


def run_original(maker: ClipMaker, request: OriginalRequest, report: StepReport) -> dict[str, Any]:
    """Answer as the original did: JPEG and MP3 as data URIs, and the duration."""
    spec, end = request.spec, request.end
    texts = maker.sampler.pipeline.texts
    conditions = texts.equal_lengths(
        [(one.prompt, one.negative_prompt, spec.guidance_scale) for one in (request.start, end)]
    )
    # The noise lies as far between those of the two seeds as the prompt between the two prompts.
    change: dict[str, Any] = {"place": spec.alpha} if spec.alpha < 1 else {"place": 0.0, "seed": end.seed}
    condition = conditions[0].towards(conditions[1], spec.alpha)
    _, image = maker.draw(spec.model_copy(update=change), condition, end.seed, report)
    wav = maker.decode(image, request.start.seed)
    rate_hz = maker.sampler.codec.rate_hz
    jpeg = encode_image(PIL.Image.fromarray(image).convert("RGB"), "JPEG", maker.mark, quality=95)
    return {
        "image": _data_uri("image/jpeg", jpeg),
        "audio": _data_uri("audio/mpeg", encode_audio(wav, rate_hz, "mp3", maker.mark)),
        "duration_s": wav.shape[1] / rate_hz,
    }


def _original_end(data: Mapping[str, Any], key: str, common: Mapping[str, Any]) -> ClipSpec:
    """Return one end of a request, under our names for the original's fields."""
    end = data[key]
    if not isinstance(end, dict):
        raise InputError(f"{key}: must be an object with prompt and seed")
    for name in ("prompt", "seed"):
        if name not in end:
            raise InputError(f'missing value for field "{key}.{name}"')
    seed = end["seed"]
    if isinstance(seed, int) and not 0 <= seed <= MAX_SEED:
        raise InputError(f"{key}.seed: must be a whole number from 0 to {MAX_SEED}")
    values = {
        **common,
        "prompt": end["prompt"],
        "prompt_to": end["prompt"],
        "seed": seed,
        "negative_prompt": end.get("negative_prompt") or "",
        "strength": end.get("denoising", 0.75),
        "guidance_scale": end.get("guidance", 7.0),
    }
    try:
        return apply_changes(ClipSpec(), values, lambda id: False)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


def _without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings that say nothing about the server's folders."""
    loras = [Path(lora).name for lora in settings["loras"]]
    return settings | {"model": Path(settings["model"]).name, "loras": loras}


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
