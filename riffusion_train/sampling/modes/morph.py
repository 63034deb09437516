"""Morphing: the noises that two sounds come from, mixed on a sphere and denoised (DDIM inversion, Song et al. 2020)."""

import dataclasses

from torch import Tensor

from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.modes.base import ClipData, ModeOptions, Request, SourceFile
from riffusion_train.sampling.modes.text import fade_edges
from riffusion_train.sampling.noise import slerp
from riffusion_train.sampling.pipeline import Pipeline
from riffusion_train.sampling.schedulers import make_ddim_pair
from riffusion_train.sampling.sources import encode_source, read_wav
from riffusion_train.sampling.text import Condition


@dataclasses.dataclass(frozen=True, kw_only=True)
class MorphRequest(Request):
    """A step on the way from one sound to another."""

    mode = "morph"

    source: SourceFile
    target: SourceFile
    share: float = 0.5
    """How far on the way: 0 is the source, 1 the target."""


def make(pipeline: Pipeline, request: MorphRequest, options: ModeOptions) -> ClipData:
    """Make the clip that lies `share` of the way from the first clip's length of the source to that of the target."""
    if not 0 <= request.share <= 1:
        raise InputError(f"share={request.share:g} must lie between 0 (the source) and 1 (the target)")
    codec = pipeline.codec
    # Without a prompt there is nothing to guide towards, which halves the work.
    scale = request.guidance_scale if request.prompt or request.negative_prompt else 1.0
    condition = pipeline.texts.condition(request.prompt, request.negative_prompt, scale)
    unguided = Condition(condition.positive, condition.negative, 1.0)
    forwards, backwards = make_ddim_pair(pipeline.components.scheduler)
    steps, report = options.num_inference_steps, options.report
    noises: list[Tensor] = []
    for file in (request.source, request.target):
        wav = read_wav(file.unchanged(), codec)[:, : codec.clip_samples]
        encoded = encode_source(wav, codec, multiple=1, min_width=codec.config.width_px)
        latents = pipeline.encode(encoded.image[:, : codec.config.width_px])[None]
        # Inversion follows the same equation from the image to the noise, without guidance, which would not be undone.
        noises.append(
            pipeline.denoise(latents, unguided, num_inference_steps=steps, scheduler=backwards, report=report)
        )
    noise = slerp(noises[0], noises[1], request.share)  # (1, C, h, w)
    latents = pipeline.denoise(noise, condition, num_inference_steps=steps, scheduler=forwards, report=report)
    image = pipeline.decode(latents[0])
    wav = codec.decode(image, quality=options.quality, seed=request.seed)
    return ClipData(image, fade_edges(wav, codec.rate_hz))
