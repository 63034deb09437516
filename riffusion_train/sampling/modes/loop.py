"""Loops without a seam: noise, networks and phase that go round."""

from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from riffusion_train.audio.inversion.stft import stretch_loop
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.noise import long_noise
from riffusion_train.sampling.requests import LoopRequest

if TYPE_CHECKING:
    from riffusion_train.sampling.clip import Clip
    from riffusion_train.sampling.sampler import Sampler


def make(sampler: "Sampler", request: LoopRequest, report: StepReport | None = None) -> "Clip":
    """Make a loop.

    The picture is drawn on the grid of the latents. Where bars ask for another length, it is stretched along time to the
    nearest column, which changes the tempo and not the pitch; the rest, half a column, is resampled.
    """
    engine, config, codec = sampler.engine, sampler.codec.config, sampler.codec
    column_s = config.hop_length / config.rate_hz
    wanted_s = loop_duration_s(request, config.width_px * column_s)
    unit = engine.downsampling * engine.latent_step
    width = max(round(wanted_s / column_s / unit), 1) * unit
    noise = long_noise(request.seed, engine.latent_shape, width // engine.downsampling)
    condition = engine.texts.condition(request.prompt, request.negative_prompt, request.guidance_scale)
    latents = engine.denoise(
        noise[None], lambda row, column: condition, circular=True, seeds=[request.seed], report=report
    )
    image = engine.decode(latents[0], circular=True)
    if request.bpm is not None:
        image = stretch_round(image, max(round(wanted_s / column_s), 2))
    wav = codec.decode_loop(image, quality=sampler.quality, seed=request.seed)
    if request.bpm is not None:
        wav = stretch_loop(wav, round(wanted_s * config.rate_hz))
    return sampler.clip(request, image, wav)


def loop_duration_s(request: LoopRequest, clip_s: float) -> float:
    """Return how long a loop is to be: whole bars where it has a tempo.

    Raises:
        InputError: If the numbers make no length.
    """
    about_s = clip_s if request.duration_s is None else request.duration_s
    if about_s <= 0:
        raise InputError(f"duration={about_s:g}: must be above 0 seconds")
    if request.bpm is None:
        if request.bars is not None:
            raise InputError("bars= needs bpm=, the tempo that says how long a bar is")
        return about_s
    if not 20 <= request.bpm <= 400 or request.beats_per_bar < 1 or (request.bars is not None and request.bars < 1):
        raise InputError(f"bpm={request.bpm:g}: must lie between 20 and 400, with bars and beats_per_bar of at least 1")
    bar_s = 60 * request.beats_per_bar / request.bpm
    return bar_s * (request.bars or max(round(about_s / bar_s), 1))


def stretch_round(image: np.ndarray, width: int) -> np.ndarray:
    """Return a picture that goes round at another width, by Lanczos interpolation that sees beyond both ends."""
    own = image.shape[1]
    if own == width:
        return image
    height = image.shape[0]
    margin = min(own, 16)
    wrapped = PIL.Image.fromarray(np.concatenate([image[:, -margin:], image, image[:, :margin]], axis=1))
    # A column stands for a moment, not for a stretch of time: column 0 stays where it is.
    step = own / width
    left = margin + 0.5 - step / 2
    box = (left, 0.0, left + own, float(height))
    return np.asarray(wrapped.resize((width, height), PIL.Image.Resampling.LANCZOS, box=box))
