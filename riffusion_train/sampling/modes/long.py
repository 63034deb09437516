"""Long form: one coherent picture of any length, denoised in overlapping windows that are blended in every step."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.noise import long_noise
from riffusion_train.sampling.requests import LongRequest
from riffusion_train.sampling.text import Condition

if TYPE_CHECKING:
    from riffusion_train.sampling.clip import StreamedClip
    from riffusion_train.sampling.pipeline import Pipeline
    from riffusion_train.sampling.sampler import Sampler

_QUIETEST_DB = -20.0


def make(sampler: "Sampler", request: LongRequest, report: StepReport | None = None) -> "StreamedClip":
    """Make a piece of `duration_s`. Only its latents are held in memory, 13 kB a second at 512 bands."""
    if request.duration_s <= 0:
        raise InputError(f"duration={request.duration_s:g}: must be above 0 seconds")
    engine, config = sampler.engine, sampler.codec.config
    width = engine.latent_columns(request.duration_s)
    noise = long_noise(request.seed, engine.latent_shape, width)
    latents = engine.denoise(noise[None], _conditions(engine, request), seeds=[request.seed], report=report)
    samples = round(request.duration_s * config.rate_hz)
    return sampler.streamed(
        request,
        engine.decode_stream(latents[0]),
        columns=samples // config.hop_length + 2,
        samples=samples,
        level=volume_gain(request.volume),
    )


def volume_gain(volume: Sequence[tuple[float, float]]) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the factor of the sound at times in seconds: 20 dB from a volume of 0 to one of 1.

    Raises:
        InputError: If a volume is no number from 0 to 1, or the times do not rise.
    """
    if not volume:
        return None
    times, levels = [point[0] for point in volume], [point[1] for point in volume]
    if any(not 0 <= level <= 1 for level in levels) or sorted(set(times)) != times:
        raise InputError("--volume: needs values from 0 to 1 at rising times, such as '0s: 0.2 | 30s: 1'")
    return lambda seconds: 10 ** (_QUIETEST_DB * (1 - np.interp(seconds, times, levels)) / 20)


def _conditions(engine: "Pipeline", request: LongRequest) -> Callable[[int, float], Condition]:
    """Return the condition at a time; where the prompt changes, the windows that see both sides cross over."""
    stations = [(0.0, request.prompt), *request.schedule]
    times = [time_s for time_s, _ in request.schedule]
    if any(time_s < 0 for time_s in times) or sorted(set(times)) != times:
        raise InputError("--schedule: needs prompts at rising times, such as '0s: slow piano | 30s: drums'")
    wanted = [(prompt, request.negative_prompt, request.guidance_scale) for _, prompt in stations]
    conditions = engine.texts.equal_lengths(wanted)

    def at(row: int, column: float) -> Condition:
        seconds = engine.seconds(column)
        place = max(index for index, (time_s, _) in enumerate(stations) if time_s <= seconds)
        return conditions[place]

    return at
