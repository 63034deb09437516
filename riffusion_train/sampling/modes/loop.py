"""Loops: noise, networks and phase that are periodic along time, so that the end meets the beginning."""

import dataclasses

import numpy as np
import PIL.Image

from riffusion_train.audio.inversion.stft import stretch_loop
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.modes.base import ClipData, ModeOptions, Request
from riffusion_train.sampling.noise import long_noise
from riffusion_train.sampling.pipeline import Pipeline


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopRequest(Request):
    """A loop whose end meets its beginning."""

    mode = "loop"

    duration_s: float | None = None
    """About how long; None is a clip's length."""
    bpm: float | None = None
    """Beats a minute, to which the length is snapped; the music is not made to follow them."""
    bars: int | None = None
    """Whole bars of `beats_per_bar`; None is the number nearest to the duration."""
    beats_per_bar: int = 4


def make(pipeline: Pipeline, request: LoopRequest, options: ModeOptions) -> ClipData:
    """Make a loop.

    The image is sampled on the grid of the latents. Where bars ask for another length, it is stretched along time to the
    nearest column, which changes the tempo and not the pitch; the rest, half a column at most, is resampled.
    """
    config, codec = pipeline.codec.config, pipeline.codec
    column_s = config.hop_length / config.rate_hz
    length_s = loop_duration_s(request, config.width_px * column_s)
    unit = pipeline.downsampling * pipeline.latent_step
    width = max(round(length_s / column_s / unit), 1) * unit
    noise = long_noise(request.seed, pipeline.latent_shape, width // pipeline.downsampling)
    condition = pipeline.texts.condition(request.prompt, request.negative_prompt, request.guidance_scale)
    latents = pipeline.denoise(
        noise[None],
        condition,
        num_inference_steps=options.num_inference_steps,
        circular=True,
        seeds=[request.seed],
        report=options.report,
    )
    image = pipeline.decode(latents[0], circular=True)
    if request.bpm is not None:
        image = stretch_circular(image, max(round(length_s / column_s), 2))
    wav = codec.decode_loop(image, quality=options.quality, seed=request.seed)
    if request.bpm is not None:
        wav = stretch_loop(wav, round(length_s * config.rate_hz))
    return ClipData(image, wav)


def loop_duration_s(request: LoopRequest, clip_s: float) -> float:
    """Return the length of a loop: whole bars where it has a tempo.

    Raises:
        InputError: If the numbers make no length.
    """
    rough_s = clip_s if request.duration_s is None else request.duration_s
    if rough_s <= 0:
        raise InputError(f"duration={rough_s:g}: must be above 0 seconds")
    if request.bpm is None:
        if request.bars is not None:
            raise InputError("bars= needs bpm=, the tempo that says how long a bar is")
        return rough_s
    if not 20 <= request.bpm <= 400 or request.beats_per_bar < 1 or (request.bars is not None and request.bars < 1):
        raise InputError(f"bpm={request.bpm:g}: must lie between 20 and 400, with bars and beats_per_bar of at least 1")
    bar_s = 60 * request.beats_per_bar / request.bpm
    return bar_s * (request.bars or max(round(rough_s / bar_s), 1))


def stretch_circular(image: np.ndarray, width: int) -> np.ndarray:
    """Return a circular image at another width, by Lanczos interpolation that wraps around both ends."""
    own = image.shape[1]
    if own == width:
        return image
    height = image.shape[0]
    margin = min(own, 16)
    wrapped = PIL.Image.fromarray(np.concatenate([image[:, -margin:], image, image[:, :margin]], axis=1))
    # A column is a moment, not an interval of time: column 0 keeps its position.
    step = own / width
    left = margin + 0.5 - step / 2
    box = (left, 0.0, left + own, float(height))
    return np.asarray(wrapped.resize((width, height), PIL.Image.Resampling.LANCZOS, box=box))
