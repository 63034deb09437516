"""The magnitudes of complex spectra."""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from riffusion_train.audio import host


def magnitude(spectrum: Tensor) -> Tensor:
    """Return the magnitudes of (..., frames, bins); without the care of `abs` against overflow, which sound does not need."""
    if not host.on_host(spectrum):
        squares = torch.view_as_real(spectrum).square()
        return (squares[..., 0] + squares[..., 1]).sqrt_()
    found = torch.empty(spectrum.shape)
    _magnitude(parts(spectrum), found.numpy().reshape(-1))
    return found


def parts(spectrum: Tensor) -> Any:
    """Return the real and imaginary parts of a spectrum in the host's memory, float32 (numbers, 2)."""
    return torch.view_as_real(spectrum.contiguous()).numpy().reshape(-1, 2)


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _magnitude(parts: Any, found: Any) -> None:
    for place in range(len(found)):
        found[place] = np.sqrt(parts[place, 0] * parts[place, 0] + parts[place, 1] * parts[place, 1])
