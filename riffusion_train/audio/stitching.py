"""Neighbouring spectrograms joined by overlap."""

from collections.abc import Sequence

import torch
from torch import Tensor

from riffusion_train.runtime.errors import InputError


def stitch(mels: Sequence[Tensor], cosines: Sequence[Tensor | None], overlap: int) -> tuple[Tensor, Tensor | None]:
    """Join spectrograms; in the columns that two share, one's magnitudes give way to the other's.

    Two versions of one moment agree in what they share, so the magnitudes are mixed in proportion (not their powers), by
    a raised cosine.

    Args:
        mels: Mel magnitudes in order, each (clips, channels, frames, n_mels).
        cosines: Cosines of the phase between channels, each (clips, frames, n_mels), or None throughout.
        overlap: Columns that two neighbours share.

    Raises:
        InputError: If there is nothing to join, or an overlap takes more than half of a spectrogram.
    """
    if not mels:
        raise InputError("there is no image to stitch; give at least one")
    narrowest = min(mel.shape[2] for mel in mels)
    if overlap < 0 or (len(mels) > 1 and 2 * overlap > narrowest):
        raise InputError(f"overlap_px={overlap} must be 0 to {narrowest // 2}, half the width of the narrowest image")
    joined, cosine = mels[0], cosines[0]
    for mel, next_cosine in zip(mels[1:], cosines[1:], strict=True):
        joined = _cross(joined, mel, overlap)
        if cosine is not None and next_cosine is not None:
            cosine = _cross(cosine, next_cosine, overlap)
    return joined, cosine


def _cross(before: Tensor, after: Tensor, overlap: int) -> Tensor:
    """Join (..., frames, n_mels) along the frames."""
    if overlap == 0:
        return torch.cat([before, after], -2)
    share = torch.sin(torch.linspace(0, torch.pi / 2, overlap + 2, device=before.device)[1:-1]).square()[:, None]
    both = torch.lerp(before[..., -overlap:, :], after[..., :overlap, :], share)
    return torch.cat([before[..., :-overlap, :], both, after[..., overlap:, :]], -2)
