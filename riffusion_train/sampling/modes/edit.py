"""Editing a sound: changed as a whole towards a prompt (audio), in parts (inpaint), or continued (extend).

A changed sound may be of any length and is one coherent image. What is kept of a sound in parts comes from its own samples. A
sound is continued primed with its own end, or led up to primed with its beginning.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from riffusion_train.audio.image_file import load_image
from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.modes.base import ClipData, ModeOptions, Request, SourceFile, StreamData
from riffusion_train.sampling.pipeline import Conditions, Pipeline
from riffusion_train.sampling.sources import (
    Source,
    band_of,
    encode_source,
    load_source,
    long_noise,
    padded,
    read_wav,
    splice,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioRequest(Request):
    """A sound of any length changed towards a prompt."""

    mode = "audio"

    source: SourceFile
    strength: float = 0.55
    """How much is changed: the share of the steps that is done; 0 leaves the image as it is."""
    prompt_end: str | None = None
    """The prompt at the end of the sound, if it is another one; in between, the two are mixed."""


def make_audio(pipeline: Pipeline, request: AudioRequest, options: ModeOptions) -> StreamData:
    """Change the source towards the prompt (SDEdit, Meng et al. 2021, arXiv:2108.01073)."""
    check_strength(request.strength)
    source = _load_on_grid(pipeline, request.source.unchanged())
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


def _load_on_grid(pipeline: Pipeline, path: Path) -> Source:
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class InpaintRequest(Request):
    """A sound of which parts are generated anew."""

    mode = "inpaint"

    source: SourceFile
    keep_s: tuple[tuple[float, float], ...] = ()
    """Ranges of time that stay; everything else is new."""
    renew_s: tuple[tuple[float, float], ...] = ()
    """Ranges of time that are new; everything else stays."""
    band_hz: tuple[float, float] | None = None
    """Only the frequencies between these two are new."""
    mask: SourceFile | None = None
    """An image over the whole sound: white is new, black stays."""
    strength: float = 1.0


def _regenerate(
    pipeline: Pipeline,
    request: Request,
    image: np.ndarray,
    share: np.ndarray,
    strength: float,
    options: ModeOptions,
) -> np.ndarray:
    """Return an image of which parts are generated anew.

    After every step, what is kept is put back with as much noise as the next step expects, as in the original Riffusion
    and in RePaint (Lugmayr et al. 2022, arXiv:2201.09865), without its jumps back in time.

    Args:
        pipeline: The model.
        request: Prompts, seed and guidance.
        image: The image, of a width on the grid of the latents.
        share: 1 where it is new, 0 where it stays, (n_mels, width), rows as in the image.
        strength: Share of the steps that is done.
        options: How to sample.
    """
    known = pipeline.encode(image)[None]  # (1, C, h, w)
    width = known.shape[-1]
    noise = long_noise(request.seed, pipeline.latent_shape, width)[None].to(known)
    # A latent pixel is new if any of its image pixels is: (1, 1, h, w).
    new = F.adaptive_max_pool2d(torch.from_numpy(share)[None, None], known.shape[-2:]).to(known)
    condition = pipeline.texts.condition(request.prompt, request.negative_prompt, request.guidance_scale)
    scheduler = pipeline.scheduler(options.num_inference_steps)

    def keep(canvas: Tensor, next_timestep: Tensor | None) -> Tensor:
        # RePaint, algorithm 1: the known part at the noise level of the next step, the unknown part as denoised.
        held = known if next_timestep is None else scheduler.add_noise(known, noise, next_timestep[None])
        return torch.lerp(held, canvas, new)

    whole = strength == 1
    latents = pipeline.denoise(
        noise if whole else known,
        condition,
        num_inference_steps=options.num_inference_steps,
        strength=strength,
        noise=None if whole else noise,
        seeds=[request.seed],
        hook=keep,
        report=options.report,
    )
    made = pipeline.decode(latents[0])
    # The VAE changes the kept pixels a little too: take them from the image itself.
    weight = share if made.ndim == 2 else share[..., None]
    return np.rint(image + (made.astype(np.float32) - image) * weight).astype(np.uint8)


def make_inpaint(pipeline: Pipeline, request: InpaintRequest, options: ModeOptions) -> ClipData:
    """Generate parts of the source anew; the rest comes from its own samples, not through the codec."""
    check_strength(request.strength)
    codec, config = pipeline.codec, pipeline.codec.config
    source = _load_on_grid(pipeline, request.source.unchanged())
    share = _new_share(request, source, config)
    image = _regenerate(pipeline, request, source.image, np.flipud(share).copy(), request.strength, options)
    decoded = codec.decode(image, source.max_value or None, quality=options.quality, seed=request.seed)
    samples = source.wav.shape[1]
    made = np.pad(decoded[:, :samples], ((0, 0), (0, max(samples - decoded.shape[1], 0))))
    wav = splice(source.wav, made, share, config)
    return ClipData(image[:, : source.columns], wav, keep_level=True)


def _new_share(request: InpaintRequest, source: Source, config: SpectrogramConfig) -> np.ndarray:
    """Return 1 where an image is new and 0 where it stays, float32 (n_mels, width), the lowest band first.

    Raises:
        InputError: If a range has no length or lies outside, nothing is new, or a mask cannot be read.
    """
    path = request.source.path
    width = source.image.shape[1]
    duration_s = source.wav.shape[1] / config.rate_hz
    for option, ranges in (("--keep", request.keep_s), ("--renew", request.renew_s)):
        for start_s, end_s in ranges:
            if not 0 <= start_s < end_s:
                raise InputError(f"{option} {start_s:g}-{end_s:g}: the range has no length; write START-END in seconds")
            if start_s >= duration_s:
                raise InputError(f"{option} {start_s:g}-{end_s:g}: lies outside {path}, which lasts {duration_s:.2f} s")
    time_s = np.arange(width) * config.hop_length / config.rate_hz
    new = _inside(time_s, request.renew_s) if request.renew_s else np.ones(width, bool)
    new &= ~_inside(time_s, request.keep_s)
    share = np.repeat(new[None].astype(np.float32), config.n_mels, axis=0)
    if request.mask is not None:
        share *= _mask(request.mask, config.n_mels, source.columns, width)
    if request.band_hz is not None:
        low_hz, high_hz = request.band_hz
        if not 0 <= low_hz < high_hz or low_hz >= config.f_max_hz:
            raise InputError(
                f"--band {low_hz:g}-{high_hz:g}: must be LOW-HIGH in Hz, below the model's {config.f_max_hz:g} Hz"
            )
        low, high = band_of(np.array([low_hz, high_hz]), config)
        bands = np.arange(config.n_mels)
        share *= ((bands >= low) & (bands <= high)).astype(np.float32)[:, None]
    if not share[:, : source.columns].any():
        raise InputError(f"{path}: nothing of it is left to generate anew; keep less of it")
    return share


def _inside(time_s: np.ndarray, ranges: tuple[tuple[float, float], ...]) -> np.ndarray:
    inside = np.zeros(len(time_s), bool)
    for start_s, end_s in ranges:
        inside |= (time_s >= start_s) & (time_s < end_s)
    return inside


def _mask(file: SourceFile, n_mels: int, columns: int, width: int) -> np.ndarray:
    """Return a mask resized to the sound, (n_mels, width) with the lowest band first; white is 1."""
    pixels = load_image(file.unchanged(), use_description=False).image
    grey = PIL.Image.fromarray(pixels).convert("L").resize((columns, n_mels), PIL.Image.Resampling.BILINEAR)
    levels = np.asarray(grey, np.float32) / 255
    return np.pad(np.flipud(levels), ((0, 0), (0, width - columns)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtendRequest(Request):
    """A sound that is continued, or led up to."""

    mode = "extend"

    source: SourceFile
    duration_s: float = 5.0
    """How much is added."""
    backwards: bool = False
    """Add before the sound instead of after it."""


def make_extend(pipeline: Pipeline, request: ExtendRequest, options: ModeOptions) -> ClipData:
    """Continue the source by `duration_s`, or lead up to it; its own samples stay, except in the crossfade."""
    if request.duration_s <= 0:
        raise InputError(f"duration={request.duration_s:g}: must be above 0 seconds")
    codec, config = pipeline.codec, pipeline.codec.config
    wav = read_wav(request.source.unchanged(), codec)
    hop, scale = config.hop_length, pipeline.downsampling
    unit = scale * pipeline.latent_step
    primer = min(pipeline.latent_shape[2] // 2 * scale, wav.shape[1] // hop // scale * scale)
    if primer < 2 * scale:
        raise InputError(
            f"{request.source.path}: is shorter than {2 * scale * hop / config.rate_hz:.2f} s; give a longer file"
        )
    new = math.ceil(request.duration_s * config.rate_hz / hop)
    width = max(math.ceil((primer + new) / unit) * unit, pipeline.latent_shape[2] * scale)
    near = wav[:, : primer * hop] if request.backwards else wav[:, -primer * hop :]
    encoded = encode_source(near, codec, multiple=1, min_width=primer)
    # The crossfade lies inside the primer, where both sounds exist.
    crossfade = scale
    share = np.ones((config.n_mels, width), np.float32)
    image = padded(encoded.image[:, :primer], width)
    if request.backwards:
        image = np.roll(image, width - primer, axis=1)
        share[:, width - primer + crossfade :] = 0
    else:
        share[:, : primer - crossfade] = 0
    # The image: the primer, which is known, and the columns that are sampled from its end on, or up to its beginning.
    made = _regenerate(pipeline, request, image, share, 1.0, options)
    sound = codec.decode(made, encoded.max_value or None, quality=options.quality, seed=request.seed)
    overlap = crossfade * hop
    added = round(request.duration_s * config.rate_hz)
    if request.backwards:
        joined = _crossfade(sound, wav, overlap=overlap, after_from=sound.shape[1] - (primer - 1) * hop)
        joined, image = joined[:, -(wav.shape[1] + added) :], made
    else:
        joined = _crossfade(
            wav, sound[:, (primer - crossfade) * hop :], overlap=overlap, after_from=wav.shape[1] - overlap
        )
        joined, image = joined[:, : wav.shape[1] + added], made[:, : primer + new]
    return ClipData(image, joined, keep_level=True)


def _crossfade(before: np.ndarray, after: np.ndarray, *, overlap: int, after_from: int) -> np.ndarray:
    """Return two sounds of which the second begins at sample `after_from` of the first and fades in over `overlap` samples.

    They are equally loud and not correlated, so their powers add up to one.
    """
    angle = np.linspace(0, np.pi / 2, overlap, dtype=np.float32)
    both = before[:, after_from : after_from + overlap] * np.cos(angle) + after[:, :overlap] * np.sin(angle)
    return np.concatenate([before[:, :after_from], both, after[:, overlap:]], axis=1)
