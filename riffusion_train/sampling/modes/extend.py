"""Extending: a sound is continued, primed with its own end, or led up to, primed with its beginning."""

import dataclasses
import math

import numpy as np

from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.modes.base import ClipData, ModeOptions, Request, SourceFile
from riffusion_train.sampling.modes.inpaint import regenerate
from riffusion_train.sampling.pipeline import Pipeline
from riffusion_train.sampling.sources import encode_source, padded, read_wav


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtendRequest(Request):
    """A sound that is continued, or led up to."""

    mode = "extend"

    source: SourceFile
    duration_s: float = 5.0
    """How much is added."""
    backwards: bool = False
    """Add before the sound instead of after it."""


def make(pipeline: Pipeline, request: ExtendRequest, options: ModeOptions) -> ClipData:
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
    made = regenerate(pipeline, request, image, share, 1.0, options)
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
