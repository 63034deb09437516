"""Audio to audio: a sound of any length changed towards a prompt, as one coherent image."""

import dataclasses
from pathlib import Path

from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.modes.base import ModeOptions, Request, SourceFile, StreamData
from riffusion_train.sampling.noise import long_noise
from riffusion_train.sampling.pipeline import Conditions, Pipeline
from riffusion_train.sampling.sources import Source, load_source


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioRequest(Request):
    """A sound of any length changed towards a prompt."""

    mode = "audio"

    source: SourceFile
    strength: float = 0.55
    """How much is changed: the share of the steps that is done; 0 leaves the image as it is."""
    prompt_end: str | None = None
    """The prompt at the end of the sound, if it is another one; in between, the two are mixed."""


def make(pipeline: Pipeline, request: AudioRequest, options: ModeOptions) -> StreamData:
    """Change the source towards the prompt (SDEdit, Meng et al. 2021, arXiv:2108.01073)."""
    check_strength(request.strength)
    source = load_on_grid(pipeline, request.source.unchanged())
    latents = pipeline.encode(source.image)  # (C, h, width)
    noise = long_noise(request.seed, pipeline.latent_shape, latents.shape[-1])
    denoised = pipeline.denoise(
        latents[None],
        _conditions(pipeline, request, source.columns / pipeline.downsampling),
        num_inference_steps=options.num_inference_steps,
        strength=request.strength,
        noise=noise[None],
        seeds=[request.seed],
        report=options.report,
    )
    return StreamData(pipeline.decode_stream(denoised[0]), columns=source.columns, max_value=source.max_value)


def load_on_grid(pipeline: Pipeline, path: Path) -> Source:
    """Return a source on the grid of the latents, at least as wide as a clip."""
    multiple = pipeline.downsampling * pipeline.latent_step
    min_width = pipeline.latent_shape[2] * pipeline.downsampling
    return load_source(path, pipeline.codec, multiple=multiple, min_width=min_width)


def check_strength(strength: float) -> None:
    """Check the share of the steps that is done.

    Raises:
        InputError: If it does not lie between 0 and 1.
    """
    if not 0 <= strength <= 1:
        raise InputError(f"strength={strength:g} must lie between 0 (nothing changes) and 1 (everything is new)")


def _conditions(pipeline: Pipeline, request: AudioRequest, columns: float) -> Conditions:
    """Return the conditions from the prompt to the prompt at the end, on a straight line over `columns` of latents."""
    prompts = [request.prompt, request.prompt if request.prompt_end is None else request.prompt_end]
    texts = [(prompt, request.negative_prompt, request.guidance_scale) for prompt in prompts]
    first, last = pipeline.texts.equal_lengths(texts)
    if request.prompt_end is None:
        return first
    return lambda column: first.towards(last, min(column / columns, 1.0))
