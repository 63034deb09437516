"""Extending: a sound that goes on, primed with its own end, or is led up to, primed with its beginning."""

import math
from typing import TYPE_CHECKING

import numpy as np

from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.modes.inpaint import renew
from riffusion_train.sampling.requests import ExtendRequest
from riffusion_train.sampling.sources import draw_source, read_wav, widened

if TYPE_CHECKING:
    from riffusion_train.sampling.clip import Clip
    from riffusion_train.sampling.sampler import Sampler


def make(sampler: "Sampler", request: ExtendRequest, report: StepReport | None = None) -> "Clip":
    """Carry the source on by `duration_s`, or lead up to it; its own samples stay as they are but for the seam."""
    if request.duration_s <= 0:
        raise InputError(f"duration={request.duration_s:g}: must be above 0 seconds")
    codec, config, engine = sampler.codec, sampler.codec.config, sampler.engine
    wav = read_wav(request.source.unchanged(), codec)
    hop, scale = config.hop_length, engine.downsampling
    unit = scale * engine.latent_step
    primer = min(engine.latent_shape[2] // 2 * scale, wav.shape[1] // hop // scale * scale)
    if primer < 2 * scale:
        raise InputError(f"{request.source.path}: is shorter than {2 * scale * hop / config.rate_hz:.2f} s; give more")
    new = math.ceil(request.duration_s * config.rate_hz / hop)
    width = max(math.ceil((primer + new) / unit) * unit, engine.latent_shape[2] * scale)
    near = wav[:, : primer * hop] if request.backwards else wav[:, -primer * hop :]
    drawn = draw_source(near, codec, multiple=1, least=primer)
    # The seam lies inside what is known, so that both sounds are there.
    seam = scale
    share = np.ones((config.n_mels, width), np.float32)
    image = widened(drawn.image[:, :primer], width)
    if request.backwards:
        image = np.roll(image, width - primer, axis=1)
        share[:, width - primer + seam :] = 0
    else:
        share[:, : primer - seam] = 0
    made = renew(engine, request, image, share, 1.0, report)
    sound = codec.decode(made, drawn.max_value or None, quality=sampler.quality, seed=request.seed)
    added = round(request.duration_s * config.rate_hz)
    if request.backwards:
        joined = _join(sound, wav, overlap=seam * hop, after_from=sound.shape[1] - (primer - 1) * hop)
        joined, picture = joined[:, -(wav.shape[1] + added) :], made
    else:
        joined = _join(wav, sound[:, (primer - seam) * hop :], overlap=seam * hop, after_from=wav.shape[1] - seam * hop)
        joined, picture = joined[:, : wav.shape[1] + added], made[:, : primer + new]
    return sampler.faithful_clip(request, picture, joined)


def _join(before: np.ndarray, after: np.ndarray, *, overlap: int, after_from: int) -> np.ndarray:
    """Return two sounds of which the second begins at a sample of the first, and fades in over `overlap` samples.

    They have one loudness and nothing else in common, so their powers add up to one.
    """
    angle = np.linspace(0, np.pi / 2, overlap, dtype=np.float32)
    both = before[:, after_from : after_from + overlap] * np.cos(angle) + after[:, :overlap] * np.sin(angle)
    return np.concatenate([before[:, :after_from], both, after[:, overlap:]], axis=1)
