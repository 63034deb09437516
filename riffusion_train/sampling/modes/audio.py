"""Audio to audio: a sound of any length changed towards a prompt, as one coherent picture."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.noise import long_noise
from riffusion_train.sampling.requests import AudioRequest
from riffusion_train.sampling.sources import Source, load_source
from riffusion_train.sampling.text import Condition

if TYPE_CHECKING:
    from riffusion_train.sampling.clip import Clip
    from riffusion_train.sampling.pipeline import Pipeline
    from riffusion_train.sampling.sampler import Sampler


def make(sampler: "Sampler", request: AudioRequest, report: StepReport | None = None) -> "Clip":
    """Change the source towards the prompt."""
    check_strength(request.strength)
    engine = sampler.engine
    source = source_of(engine, request.source.unchanged())
    latents = engine.encode(source.image)
    noise = long_noise(request.seed, engine.latent_shape, latents.shape[-1])
    denoised = engine.denoise(
        latents[None],
        _conditions(engine, request, source.columns / engine.downsampling),
        strength=request.strength,
        noise=noise[None],
        seeds=[request.seed],
        report=report,
    )
    return sampler.streamed(
        request, engine.decode_stream(denoised[0]), columns=source.columns, max_value=source.max_value
    )


def source_of(engine: "Pipeline", path: Path) -> Source:
    """Return a source on the grid of the latents, at least as wide as a clip."""
    multiple = engine.downsampling * engine.latent_step
    return load_source(path, engine.codec, multiple=multiple, least=engine.latent_shape[2] * engine.downsampling)


def check_strength(strength: float) -> None:
    """Raise where a strength is no share.

    Raises:
        InputError: If it does not lie between 0 and 1.
    """
    if not 0 <= strength <= 1:
        raise InputError(f"strength={strength:g} must lie between 0 (nothing changes) and 1 (all is new)")


def _conditions(engine: "Pipeline", request: AudioRequest, columns: float) -> Callable[[int, float], Condition]:
    """Return the condition at a time: from the prompt to the prompt at the end, on a straight line."""
    prompts = [request.prompt, request.prompt if request.prompt_end is None else request.prompt_end]
    wanted = [(prompt, request.negative_prompt, request.guidance_scale) for prompt in prompts]
    begin, end = engine.texts.equal_lengths(wanted)
    if request.prompt_end is None:
        return lambda row, column: begin
    return lambda row, column: begin.towards(end, min(column / columns, 1.0))
