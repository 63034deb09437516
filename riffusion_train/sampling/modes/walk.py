"""From one thing to another: the walk from prompt to prompt without a break, and the morph from one sound to another.

The walk is the original Riffusion's endless music. Every clip is a loop, denoised from the same seed image or from noise that
moves on a sphere. A clip would go on with its own beginning, which is crossfaded into the beginning of the next one; the phase
is continued across the join. A morph mixes the noises that two sounds come from on a sphere, and denoises the mixture (DDIM
inversion, Song et al. 2020).
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from riffusion_train.audio.codec import StreamingDecoder
from riffusion_train.config.spectrogram import Channels
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import Guidance, StepReport
from riffusion_train.sampling.modes.base import ClipData, ModeOptions, Request, SourceFile, StreamData, fade_edges
from riffusion_train.sampling.modes.edit import check_strength
from riffusion_train.sampling.pipeline import Pipeline
from riffusion_train.sampling.schedulers import make_ddim_pair
from riffusion_train.sampling.sources import encode_source, initial_noise, load_seed_image, read_wav, slerp
from riffusion_train.sampling.text import Condition

_CROSSFADE_PARTS = 8
"""One clip is crossfaded into the next over an eighth of its width."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WalkRequest(Request):
    """From prompt to prompt without a break."""

    mode = "walk"

    prompts: tuple[str, ...]
    """The prompts in order; a single one walks from seed to seed."""
    clips: int = 4
    """Clips from a prompt to the next."""
    seed_image: str | None = None
    """A seed image by name; None for none."""
    seed_file: SourceFile | None = None
    """A seed image in a file, or a sound to make one of."""
    strength: float = 0.75
    strength_end: float | None = None
    guidance_end: float | None = None
    alpha_power: float = 1.0
    """Curve of the way between two prompts: above 1 it begins slowly."""


def make_walk(pipeline: Pipeline, request: WalkRequest, options: ModeOptions) -> StreamData:
    """Walk from the first prompt to the last."""
    config = pipeline.codec.config
    count = _count(request)
    clips = itertools.islice(crossfaded(make_loops(pipeline, request, options)), count)
    colours = () if config.channels is Channels.mono else (3,)
    silence = np.full((config.n_mels, 1, *colours), 255, np.uint8)  # a last column, up to which the sound is decoded
    samples = count * config.width_px * config.hop_length
    return StreamData(itertools.chain(clips, [silence]), columns=count * config.width_px + 1, samples=samples)


def endless(pipeline: Pipeline, request: WalkRequest, options: ModeOptions) -> Iterator[np.ndarray]:
    """Yield sounds that follow one another without a gap, (channels, samples), for ever: after the last prompt comes the first.

    The level is the decoder's, a peak of one half in the first sound: the loudness of what is not made yet is not known.
    """
    decoder = StreamingDecoder(pipeline.codec, quality=options.quality, seed=request.seed)
    for image in crossfaded(make_loops(pipeline, request, options, endless=True)):
        yield decoder.push(image)


def make_loops(
    pipeline: Pipeline, request: WalkRequest, options: ModeOptions, *, endless: bool = False
) -> Iterator[np.ndarray]:
    """Yield the images of the clips, each of which is circular: its end meets its beginning."""
    check_strength(request.strength)
    if not request.prompts or request.clips < 1 or request.alpha_power <= 0:
        raise InputError("a walk needs a prompt, clips= of at least 1 and alpha_power= above 0")
    start = _seed_latents(pipeline, request)
    strength_end = request.strength if request.strength_end is None else request.strength_end
    check_strength(strength_end)
    guidance_end = request.guidance_scale if request.guidance_end is None else request.guidance_end
    texts = [
        (prompt, request.negative_prompt, request.guidance_scale if index % 2 == 0 else guidance_end)
        for index, prompt in enumerate(request.prompts)
    ]
    conditions = pipeline.texts.equal_lengths(texts)
    for index in itertools.count() if endless else range(_count(request)):
        leg, step = divmod(index, request.clips)
        alpha = (step / request.clips) ** request.alpha_power
        condition, seeds = _leg(conditions, leg, alpha, request.seed)
        here, there = (initial_noise(seed, pipeline.latent_shape) for seed in seeds)
        noise = slerp(here, there, alpha)
        ends = (request.strength, strength_end) if leg % 2 == 0 else (strength_end, request.strength)
        yield draw_loop(
            pipeline,
            condition,
            noise,
            start,
            strength=ends[0] + alpha * (ends[1] - ends[0]),
            num_inference_steps=options.num_inference_steps,
            seed=seeds[0],
            report=options.report,
        )


def crossfaded(images: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield circular images so that each begins as the one before it would have gone on."""
    before: np.ndarray | None = None
    for image in images:
        yield image if before is None else crossfade_images(before, image)
        before = image


def crossfade_images(before: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return a circular image whose first columns fade over from those of the one before it, by weights that add up to one."""
    width = crossfade_columns(image)
    share = np.sin(np.linspace(0, np.pi / 2, width + 2)[1:-1]) ** 2
    share = share.reshape(1, -1, *[1] * (image.ndim - 2))
    mixed = before[:, :width] * (1 - share) + image[:, :width] * share
    return np.concatenate([np.rint(mixed).astype(np.uint8), image[:, width:]], axis=1)


def crossfade_columns(image: np.ndarray) -> int:
    """Return over how many columns of an image the one before it fades out."""
    return image.shape[1] // _CROSSFADE_PARTS


def draw_loop(
    pipeline: Pipeline, condition: Condition, noise: Tensor, start: Tensor | None, **options: Any
) -> np.ndarray:
    """Return the image of a clip that is circular; arguments as of `denoise_loop`."""
    return pipeline.decode(denoise_loop(pipeline, condition, noise, start, **options), circular=True)


def denoise_loop(
    pipeline: Pipeline,
    condition: Condition,
    noise: Tensor,
    start: Tensor | None,
    *,
    strength: float,
    num_inference_steps: int,
    seed: int,
    report: StepReport | None = None,
    guidance: Guidance | None = None,
) -> Tensor:
    """Return the latents of a clip that is circular, (C, h, w).

    Args:
        pipeline: The model.
        condition: What guides it.
        noise: What it starts from, or what is added to the seed image, (C, h, w).
        start: Latents of the seed image, (C, h, w); None for a clip of noise alone.
        strength: How much of the seed image is changed.
        num_inference_steps: Denoising steps.
        seed: Seed of the noise that a solver adds of its own.
        report: Called after every step.
        guidance: Another guidance than the pipeline's.
    """
    latents = pipeline.denoise(
        noise[None] if start is None else start[None],
        condition,
        num_inference_steps=num_inference_steps,
        circular=True,
        strength=1.0 if start is None else strength,
        noise=None if start is None else noise[None],
        seeds=[seed],
        report=report,
        guidance=guidance,
    )
    return latents[0]


def _leg(conditions: Sequence[Condition], leg: int, alpha: float, seed: int) -> tuple[Condition, tuple[int, int]]:
    """Return the condition of a clip and the seeds its noise lies between; a single prompt walks from seed to seed."""
    if len(conditions) == 1:
        return conditions[0], (seed + leg, seed + leg + 1)
    here, there = conditions[leg % len(conditions)], conditions[(leg + 1) % len(conditions)]
    return here.towards(there, alpha), (seed, seed)


def _count(request: WalkRequest) -> int:
    """Return the number of clips, the one at the last prompt included."""
    return max(len(request.prompts) - 1, 1) * request.clips + 1


def _seed_latents(pipeline: Pipeline, request: WalkRequest) -> Tensor | None:
    if request.seed_file is not None:
        image = load_seed_image(str(request.seed_file.unchanged()), pipeline.codec)
    elif request.seed_image is not None:
        image = load_seed_image(request.seed_image, pipeline.codec)
    else:
        return None
    return pipeline.encode(image)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MorphRequest(Request):
    """A step on the way from one sound to another."""

    mode = "morph"

    source: SourceFile
    target: SourceFile
    share: float = 0.5
    """How far on the way: 0 is the source, 1 the target."""


def make_morph(pipeline: Pipeline, request: MorphRequest, options: ModeOptions) -> ClipData:
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
