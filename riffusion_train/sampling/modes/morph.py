"""Morphing: the noises that two sounds come from, mixed on a sphere and denoised (DDIM inversion, Song et al. 2020)."""

from typing import TYPE_CHECKING

from torch import Tensor

from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.modes.text import fade_edges
from riffusion_train.sampling.noise import slerp
from riffusion_train.sampling.requests import MorphRequest
from riffusion_train.sampling.sources import draw_source, read_wav
from riffusion_train.sampling.text import Condition

if TYPE_CHECKING:
    from riffusion_train.sampling.clip import Clip
    from riffusion_train.sampling.sampler import Sampler


def make(sampler: "Sampler", request: MorphRequest, report: StepReport | None = None) -> "Clip":
    """Make the clip that lies `share` of the way from the first clip's length of the source to that of the target."""
    if not 0 <= request.share <= 1:
        raise InputError(f"share={request.share:g} must lie between 0 (the source) and 1 (the target)")
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    engine, codec = sampler.engine, sampler.codec
    # Without a prompt there is nothing to lead towards, so half of the work is left out.
    scale = request.guidance_scale if request.prompt or request.negative_prompt else 1.0
    condition = engine.texts.condition(request.prompt, request.negative_prompt, scale)
    plain = Condition(condition.positive, condition.negative, 1.0)
    trained = dict(engine.components.scheduler.config)
    forwards = DDIMScheduler.from_config(trained, clip_sample=False)
    backwards = DDIMInverseScheduler.from_config(trained, clip_sample=False)
    noises: list[Tensor] = []
    for file in (request.source, request.target):
        wav = read_wav(file.unchanged(), codec)[:, : codec.clip_samples]
        drawn = draw_source(wav, codec, multiple=1, least=codec.config.width_px)
        latents = engine.encode(drawn.image[:, : codec.config.width_px])[None]
        noises.append(engine.denoise(latents, lambda row, column: plain, scheduler=backwards, report=report))
    latents = engine.denoise(
        slerp(noises[0], noises[1], request.share), lambda row, column: condition, scheduler=forwards, report=report
    )
    image = engine.decode(latents[0])
    wav = codec.decode(image, quality=sampler.quality, seed=request.seed)
    return sampler.clip(request, image, fade_edges(wav, codec.rate_hz))
