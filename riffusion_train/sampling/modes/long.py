"""Images of any length: long pieces, and loops.

A long piece is one coherent image, denoised in overlapping windows that are blended in every step. Noise, networks and phase of
a loop are periodic along time, so that the end meets the beginning.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import PIL.Image

from riffusion_train.audio.stft import stretch_loop
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.modes.base import ClipData, ModeOptions, Request, StreamData
from riffusion_train.sampling.pipeline import Conditions, Pipeline
from riffusion_train.sampling.sources import long_noise
from riffusion_train.sampling.text import Condition

_QUIETEST_DB = -20.0
"""The level at a volume of 0, compared to a volume of 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongRequest(Request):
    """One coherent piece of any length."""

    mode = "long"

    duration_s: float = 60.0
    schedule: tuple[tuple[float, str], ...] = ()
    """Prompts by the second from which they hold; `prompt` holds before the first."""
    volume: tuple[tuple[float, float], ...] = ()
    """Volume from 0 to 1 by the second, on straight lines: the level falls by 2 dB a tenth."""


def make_long(pipeline: Pipeline, request: LongRequest, options: ModeOptions) -> StreamData:
    """Make a piece of `duration_s`. Only its latents are held in memory, 13 kB a second at 512 bands."""
    if request.duration_s <= 0:
        raise InputError(f"duration={request.duration_s:g}: must be above 0 seconds")
    config = pipeline.codec.config
    width = pipeline.latent_columns(request.duration_s)
    noise = long_noise(request.seed, pipeline.latent_shape, width)
    latents = pipeline.denoise(  # (1, C, h, width)
        noise[None],
        _conditions(pipeline, request),
        num_inference_steps=options.num_inference_steps,
        seeds=[request.seed],
        report=options.report,
    )
    samples = round(request.duration_s * config.rate_hz)
    return StreamData(
        pipeline.decode_stream(latents[0]),
        columns=samples // config.hop_length + 2,
        samples=samples,
        gain_at=_volume_gain(request.volume),
    )


def _volume_gain(volume: Sequence[tuple[float, float]]) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the gain of the sound at times in seconds: 20 dB from a volume of 0 to one of 1.

    Raises:
        InputError: If a volume is no number from 0 to 1, or the times do not rise.
    """
    if not volume:
        return None
    times, levels = [point[0] for point in volume], [point[1] for point in volume]
    if any(not 0 <= level <= 1 for level in levels) or sorted(set(times)) != times:
        raise InputError("--volume: needs values from 0 to 1 at rising times, such as '0s: 0.2 | 30s: 1'")
    return lambda seconds: 10 ** (_QUIETEST_DB * (1 - np.interp(seconds, times, levels)) / 20)


def _conditions(pipeline: Pipeline, request: LongRequest) -> Conditions:
    """Return the condition at a time; where the prompt changes, the windows that see both sides are blended."""
    prompts = [(0.0, request.prompt), *request.schedule]
    times = [time_s for time_s, _ in request.schedule]
    if any(time_s < 0 for time_s in times) or sorted(set(times)) != times:
        raise InputError("--schedule: needs prompts at rising times, such as '0s: slow piano | 30s: drums'")
    texts = [(prompt, request.negative_prompt, request.guidance_scale) for _, prompt in prompts]
    conditions = pipeline.texts.equal_lengths(texts)

    def at(column: float) -> Condition:
        seconds = pipeline.seconds(column)
        return conditions[max(index for index, (time_s, _) in enumerate(prompts) if time_s <= seconds)]

    return at


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


def make_loop(pipeline: Pipeline, request: LoopRequest, options: ModeOptions) -> ClipData:
    """Make a loop.

    The image is sampled on the grid of the latents. Where bars ask for another length, it is stretched along time to the
    nearest column, which changes the tempo and not the pitch; the rest, half a column at most, is resampled.
    """
    config, codec = pipeline.codec.config, pipeline.codec
    column_s = config.hop_length / config.rate_hz
    length_s = _loop_duration_s(request, config.width_px * column_s)
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
        image = _stretch_circular(image, max(round(length_s / column_s), 2))
    wav = codec.decode_loop(image, quality=options.quality, seed=request.seed)
    if request.bpm is not None:
        wav = stretch_loop(wav, round(length_s * config.rate_hz))
    return ClipData(image, wav)


def _loop_duration_s(request: LoopRequest, clip_s: float) -> float:
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


def _stretch_circular(image: np.ndarray, width: int) -> np.ndarray:
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
