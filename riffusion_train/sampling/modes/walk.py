"""The walk: from prompt to prompt without a break, as the original Riffusion's endless music.

Every clip is a loop, denoised from the same seed image or from noise that moves on a sphere. A clip is followed by its own
beginning, which gives way to the beginning of the next one; the phase goes on over the join, so that nothing is heard of it.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from riffusion_train.audio.codec.streaming import StreamingDecoder
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.modes.audio import check_strength
from riffusion_train.sampling.noise import initial_noise, slerp
from riffusion_train.sampling.requests import WalkRequest
from riffusion_train.sampling.seed_images import load_seed_image
from riffusion_train.sampling.text import Condition

if TYPE_CHECKING:
    from riffusion_train.sampling.clip import StreamedClip
    from riffusion_train.sampling.pipeline import Pipeline
    from riffusion_train.sampling.sampler import Sampler

_CROSSING = 8
"""The eighth part of a clip, in which one gives way to the next."""


def make(sampler: "Sampler", request: WalkRequest, report: StepReport | None = None) -> "StreamedClip":
    """Walk from the first prompt to the last."""
    config = sampler.codec.config
    count = _count(request)
    clips = itertools.islice(joined(loops(sampler.engine, request, report)), count)
    samples = count * config.width_px * config.hop_length
    ending = itertools.chain(clips, [np.full((config.n_mels, 1, *_colours(sampler)), 255, np.uint8)])
    return sampler.streamed(request, ending, columns=count * config.width_px + 1, samples=samples)


def endless(sampler: "Sampler", request: WalkRequest) -> Iterator[np.ndarray]:
    """Yield sounds that follow one another without a gap, (channels, samples), for ever: the stations go round.

    The level is the decoder's, a peak of one half in the first sound: the loudness of what is not made yet is not known.
    """
    decoder = StreamingDecoder(sampler.codec, quality=sampler.quality, seed=request.seed)
    for image in joined(loops(sampler.engine, request, None, endless=True)):
        yield decoder.push(image)


def loops(
    engine: "Pipeline", request: WalkRequest, report: StepReport | None, *, endless: bool = False
) -> Iterator[np.ndarray]:
    """Yield the pictures of the clips, each of which goes round."""
    check_strength(request.strength)
    if not request.prompts or request.clips < 1 or request.alpha_power <= 0:
        raise InputError("a walk needs a prompt, clips= of at least 1 and alpha_power= above 0")
    start = _seed_latents(engine, request)
    strength_end = request.strength if request.strength_end is None else request.strength_end
    check_strength(strength_end)
    guidance_end = request.guidance_scale if request.guidance_end is None else request.guidance_end
    wanted = [
        (prompt, request.negative_prompt, request.guidance_scale if index % 2 == 0 else guidance_end)
        for index, prompt in enumerate(request.prompts)
    ]
    conditions = engine.texts.equal_lengths(wanted)
    for place in itertools.count() if endless else range(_count(request)):
        leg, step = divmod(place, request.clips)
        alpha = (step / request.clips) ** request.alpha_power
        condition, seeds = _leg(conditions, leg, alpha, request.seed)
        here, there = (initial_noise(seed, engine.latent_shape) for seed in seeds)
        noise = slerp(here, there, alpha)
        ends = (request.strength, strength_end) if leg % 2 == 0 else (strength_end, request.strength)
        yield draw_loop(engine, condition, noise, start, ends[0] + alpha * (ends[1] - ends[0]), seeds[0], report)


def joined(pictures: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield pictures that go round so that each begins as the one before it would have gone on."""
    before: np.ndarray | None = None
    for image in pictures:
        yield image if before is None else crossed(before, image)
        before = image


def crossed(before: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return a picture that goes round with its beginning laid over that of the one before, which gives way to it."""
    width = crossing_columns(image)
    share = np.sin(np.linspace(0, np.pi / 2, width + 2)[1:-1]) ** 2
    share = share.reshape(1, -1, *[1] * (image.ndim - 2))
    mixed = before[:, :width] * (1 - share) + image[:, :width] * share
    return np.concatenate([np.rint(mixed).astype(np.uint8), image[:, width:]], axis=1)


def crossing_columns(image: np.ndarray) -> int:
    """Return in how many columns of a picture the one before gives way to it."""
    return image.shape[1] // _CROSSING


def draw_loop(
    engine: "Pipeline",
    condition: Condition,
    noise: Tensor,
    start: Tensor | None,
    strength: float,
    seed: int,
    report: StepReport | None,
) -> np.ndarray:
    """Return the picture of a clip that goes round.

    Args:
        engine: The model.
        condition: What it is told.
        noise: What it starts from, or what is laid over the seed image.
        start: Latents of the seed image; None for a clip of noise alone.
        strength: How much of the seed image is changed.
        seed: Seed of the noise that a solver adds of its own.
        report: Told about every step.
    """
    free = start is None
    latents = engine.denoise(
        noise[None] if start is None else start[None],
        lambda row, column: condition,
        circular=True,
        strength=1.0 if free else strength,
        noise=None if free else noise[None],
        seeds=[seed],
        report=report,
    )
    return engine.decode(latents[0], circular=True)


def _leg(conditions: Sequence[Condition], leg: int, alpha: float, seed: int) -> tuple[Condition, tuple[int, int]]:
    """Return the condition and the two seeds of a place on the way: one prompt walks on from seed to seed."""
    if len(conditions) == 1:
        return conditions[0], (seed + leg, seed + leg + 1)
    here, there = conditions[leg % len(conditions)], conditions[(leg + 1) % len(conditions)]
    return here.towards(there, alpha), (seed, seed)


def _count(request: WalkRequest) -> int:
    """Return the number of clips: the last station is reached and heard."""
    return max(len(request.prompts) - 1, 1) * request.clips + 1


def _seed_latents(engine: "Pipeline", request: WalkRequest) -> Tensor | None:
    if request.seed_file is not None:
        image = load_seed_image(str(request.seed_file.unchanged()), engine.codec)
    elif request.seed_image is not None:
        image = load_seed_image(request.seed_image, engine.codec)
    else:
        return None
    return engine.encode(image)


def _colours(sampler: "Sampler") -> tuple[int, ...]:
    return () if sampler.codec.config.num_channels == 1 else (3,)
