"""Inpainting: parts of a sound made anew, by time, by frequency, or by a mask drawn over its image."""

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.modes.audio import check_strength, source_of
from riffusion_train.sampling.noise import long_noise
from riffusion_train.sampling.pipeline import Pipeline
from riffusion_train.sampling.requests import InpaintRequest, Request, SourceFile
from riffusion_train.sampling.sources import Source, band_of, splice

if TYPE_CHECKING:
    from riffusion_train.sampling.clip import Clip
    from riffusion_train.sampling.sampler import Sampler


def renew(
    engine: "Pipeline",
    request: Request,
    image: np.ndarray,
    share: np.ndarray,
    strength: float,
    report: StepReport | None = None,
) -> np.ndarray:
    """Return a picture of which parts are made anew.

    After every step, what is kept is put back with as much noise as the next step expects (the repainting of the original
    Riffusion and of Lugmayr et al. 2022, arXiv:2201.09865, without its jumps back).

    Args:
        engine: The model.
        request: Prompts, seed and guidance.
        image: The picture, of a width on the grid of the latents.
        share: 1 where it is made anew, 0 where it stays, (n_mels, width) as the picture lies.
        strength: Share of the steps that is done.
        report: Told about every step.
    """
    known = engine.encode(image)[None]
    width = known.shape[-1]
    noise = long_noise(request.seed, engine.latent_shape, width)[None].to(known)
    new = F.adaptive_max_pool2d(torch.from_numpy(share)[None, None], known.shape[-2:]).to(known)
    condition = engine.texts.condition(request.prompt, request.negative_prompt, request.guidance_scale)
    scheduler = engine.scheduler

    def keep(canvas: Tensor, next_timestep: Tensor | None) -> Tensor:
        held = known if next_timestep is None else scheduler.add_noise(known, noise, next_timestep[None])
        return torch.lerp(held, canvas, new)

    whole = strength == 1
    latents = engine.denoise(
        noise if whole else known,
        lambda row, column: condition,
        strength=strength,
        noise=None if whole else noise,
        seeds=[request.seed],
        hook=keep,
        report=report,
    )
    made = engine.decode(latents[0])
    weight = share if made.ndim == 2 else share[..., None]
    return np.rint(image + (made.astype(np.float32) - image) * weight).astype(np.uint8)


def make(sampler: "Sampler", request: InpaintRequest, report: StepReport | None = None) -> "Clip":
    """Make parts of the source anew; the rest comes back from its own samples, not through the codec."""
    check_strength(request.strength)
    codec, config = sampler.codec, sampler.codec.config
    source = source_of(sampler.engine, request.source.unchanged())
    share = renewed_share(request, source, config)
    image = renew(sampler.engine, request, source.image, np.flipud(share).copy(), request.strength, report)
    decoded = codec.decode(image, source.max_value or None, quality=sampler.quality, seed=request.seed)
    samples = source.wav.shape[1]
    made = np.pad(decoded[:, :samples], ((0, 0), (0, max(samples - decoded.shape[1], 0))))
    wav = splice(source.wav, made, share, config)
    return sampler.faithful_clip(request, image[:, : source.columns], wav)


def renewed_share(request: InpaintRequest, source: Source, config: SpectrogramConfig) -> np.ndarray:
    """Return 1 where a picture is made anew and 0 where it stays, float32 (n_mels, width), the lowest band first.

    Raises:
        InputError: If a range has no length or lies outside, nothing is to be made anew, or a mask cannot be read.
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
    renewed = _inside(time_s, request.renew_s) if request.renew_s else np.ones(width, bool)
    renewed &= ~_inside(time_s, request.keep_s)
    share = np.repeat(renewed[None].astype(np.float32), config.n_mels, axis=0)
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
        raise InputError(f"{path}: nothing of it is left to make anew; keep less of it")
    return share


def _inside(time_s: np.ndarray, ranges: tuple[tuple[float, float], ...]) -> np.ndarray:
    inside = np.zeros(len(time_s), bool)
    for start_s, end_s in ranges:
        inside |= (time_s >= start_s) & (time_s < end_s)
    return inside


def _mask(file: SourceFile, n_mels: int, columns: int, width: int) -> np.ndarray:
    """Return a mask as the bands lie, resized to the sound; white is 1."""
    import PIL.Image

    from riffusion_train.audio.codec.image_file import load_image

    pixels = load_image(file.unchanged(), use_description=False).image
    grey = PIL.Image.fromarray(pixels).convert("L").resize((columns, n_mels), PIL.Image.Resampling.BILINEAR)
    levels = np.asarray(grey, np.float32) / 255
    return np.pad(np.flipud(levels), ((0, 0), (0, width - columns)))
