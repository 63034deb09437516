"""What listeners take and give: clips, cut into patches of a fixed length, and what was heard in them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from riffusion_train.audio.io.read import resample
from riffusion_train.runtime.errors import InputError

Clip = tuple[npt.NDArray[np.float32], int]
"""A sound, shape (channels, samples), full scale 1, and its sample rate in Hz."""


@dataclasses.dataclass(frozen=True)
class Heard:
    """What a listener heard in a clip."""

    embedding: npt.NDArray[np.float32]
    """Mean over the patches, shape (dim,)."""
    patches: npt.NDArray[np.float32]
    """Embedding of each patch, shape (patches, dim)."""
    tags: dict[str, float]
    """Mean score of each tag over the patches, from 0 to 1; empty for listeners without tags."""
    patch_tags: npt.NDArray[np.float32]
    """Scores of the tags in each patch, shape (patches, tags), in the order of `tags`; (patches, 0) without tags."""


def make_heard(
    patches: npt.NDArray[np.float32], patch_tags: npt.NDArray[np.float32] | None = None, names: Sequence[str] = ()
) -> Heard:
    """Return what was heard from the embeddings (patches, dim) and the scores (patches, tags) of the named tags."""
    if patch_tags is None:
        patch_tags = np.zeros((len(patches), 0), np.float32)
    means = patch_tags.mean(axis=0, dtype=np.float64)
    tags = {name: float(mean) for name, mean in zip(names, means, strict=True)}
    return Heard(patches.mean(axis=0, dtype=np.float64).astype(np.float32), patches, tags, patch_tags)


def mono_at(clip: Clip, rate_hz: int, label: str = "clip") -> npt.NDArray[np.float32]:
    """Return the mean of a clip's channels at another sample rate, shape (samples,).

    Args:
        clip: The clip.
        rate_hz: The new rate.
        label: What an error message calls the clip.

    Raises:
        InputError: If it has no samples, samples that are not numbers, or no rate.
        ValueError: If its shape is not (channels, samples).
    """
    wav, from_hz = np.asarray(clip[0], np.float32), int(clip[1])
    if wav.ndim != 2:
        raise ValueError(f"a clip has the shape (channels, samples), not {wav.shape}")
    if wav.size == 0:
        raise InputError(f"{label}: holds no audio samples; leave it out or export it again")
    if from_hz <= 0:
        raise InputError(f"{label}: has a sample rate of {from_hz} Hz; give its real one")
    mono = wav.mean(axis=0, keepdims=True)
    if not np.isfinite(mono).all():
        raise InputError(f"{label}: holds samples that are not numbers (NaN or infinity); export it again")
    out: npt.NDArray[np.float32] = resample(mono, from_hz, rate_hz)[0]
    return out


def patch_starts(length: int, patch: int, slack: int = 0) -> list[int]:
    """Return where patches begin that cover a length: one after another, and the last one aligned to the end.

    Args:
        length: Length of what is covered, at least one patch.
        patch: Length of a patch, in the same unit.
        slack: A rest at the end of at most this length gets no patch of its own.
    """
    starts = list(range(0, length - patch + 1, patch))
    if length - (starts[-1] + patch) > slack:
        starts.append(length - patch)
    return starts
