"""Inpainting: parts of a sound generated anew, by time, by frequency, or by a mask over its image."""

import dataclasses

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from riffusion_train.audio.codec.image_file import load_image
from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.modes.audio import check_strength, load_on_grid
from riffusion_train.sampling.modes.base import ClipData, ModeOptions, Request, SourceFile
from riffusion_train.sampling.noise import long_noise
from riffusion_train.sampling.pipeline import Pipeline
from riffusion_train.sampling.sources import Source, band_of, splice


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


def regenerate(
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


def make(pipeline: Pipeline, request: InpaintRequest, options: ModeOptions) -> ClipData:
    """Generate parts of the source anew; the rest comes from its own samples, not through the codec."""
    check_strength(request.strength)
    codec, config = pipeline.codec, pipeline.codec.config
    source = load_on_grid(pipeline, request.source.unchanged())
    share = new_share(request, source, config)
    image = regenerate(pipeline, request, source.image, np.flipud(share).copy(), request.strength, options)
    decoded = codec.decode(image, source.max_value or None, quality=options.quality, seed=request.seed)
    samples = source.wav.shape[1]
    made = np.pad(decoded[:, :samples], ((0, 0), (0, max(samples - decoded.shape[1], 0))))
    wav = splice(source.wav, made, share, config)
    return ClipData(image[:, : source.columns], wav, keep_level=True)


def new_share(request: InpaintRequest, source: Source, config: SpectrogramConfig) -> np.ndarray:
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
