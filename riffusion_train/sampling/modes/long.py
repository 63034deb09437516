"""Long form: one coherent image of any length, denoised in overlapping windows that are blended in every step."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.modes.base import ModeOptions, Request, StreamData
from riffusion_train.sampling.noise import long_noise
from riffusion_train.sampling.pipeline import Conditions, Pipeline
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


def make(pipeline: Pipeline, request: LongRequest, options: ModeOptions) -> StreamData:
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
        gain_at=volume_gain(request.volume),
    )


def volume_gain(volume: Sequence[tuple[float, float]]) -> Callable[[np.ndarray], np.ndarray] | None:
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
