"""Loudness of whole tracks, and the gain that brings them to one level (ITU-R BS.1770-4)."""

import functools
import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_S = 0.4
"""One gating block of BS.1770; shorter sounds have no integrated loudness."""
_HOPS_A_BLOCK = 4
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
_OFFSET_LUFS = -0.691
_SAMPLES_A_PRODUCT = 64
_FORGOTTEN = 1e-9
"""What is left of a filter's state when it counts no more: -180 dB."""


def measure_lufs(wav: npt.NDArray[np.float32], rate_hz: int) -> float | None:
    """Return the integrated loudness of a track in LUFS; None where it is silent or shorter than 0.4 s.

    The filters are pyloudnorm's, run over blocks of samples, and the gating is written anew with the blocks of the standard
    summed by hops: a tenth of pyloudnorm's time, which was a quarter of the preparation of short clips. A block that the
    end cuts off does not count, as the standard says (pyloudnorm counts some).

    Args:
        wav: Sound, shape (channels, samples), mono or stereo.
        rate_hz: Sample rate.
    """
    hop = BLOCK_S / _HOPS_A_BLOCK * rate_hz
    edges = np.arange(int(wav.shape[1] / hop + 1e-6) + 1) * hop
    if len(edges) <= _HOPS_A_BLOCK:
        return None
    weighted = _weighted(wav, rate_hz)
    bounds = edges.astype(np.int64).tolist()
    pieces = [[channel[start:end] for channel in weighted] for start, end in itertools.pairwise(bounds)]
    energy = np.array([sum(float(np.dot(piece, piece)) for piece in hop_pieces) for hop_pieces in pieces])
    blocks = np.convolve(energy, np.ones(_HOPS_A_BLOCK), "valid") / (BLOCK_S * rate_hz)
    for gate in (lambda loud: _ABSOLUTE_GATE_LUFS, lambda loud: _lufs(loud.mean()) + _RELATIVE_GATE_LU):
        blocks = blocks[blocks > 0]
        if len(blocks):
            blocks = blocks[_lufs(blocks) > gate(blocks)]
    return float(_lufs(blocks.mean())) if len(blocks) else None


def _weighted(wav: npt.NDArray[np.float32], rate_hz: int) -> npt.NDArray[np.float32]:
    """Filter by the K weighting, (channels, samples) -> (channels, samples or some silence more).

    A recursive filter is slow sample by sample. Here blocks of samples go through it as one matrix product; only the state
    that each hands to the next is a recursion. It is solved by doubling: after n rounds a state knows of 2^n blocks before
    it, and some rounds later the filter has forgotten all others (Blelloch, Prefix sums and their applications, 1990).
    """
    import torch

    weights = _k_weighting(rate_hz)
    channels, samples = wav.shape
    blocks = -(-samples // _SAMPLES_A_PRODUCT)
    padded = torch.zeros(channels, blocks * _SAMPLES_A_PRODUCT)
    padded[:, :samples] = torch.from_numpy(wav)
    sound = padded.view(channels * blocks, _SAMPLES_A_PRODUCT)
    states = (sound @ weights.sound_to_state).double().view(channels, blocks, -1)
    step, carried = 1, weights.state_to_state
    while step < blocks and float(carried.abs().max()) > _FORGOTTEN:
        states[:, step:] += states[:, :-step] @ carried
        step, carried = 2 * step, carried @ carried
    weighted = (sound @ weights.sound_to_sound).view(channels, blocks, -1)
    for channel, before in zip(weighted, states.float(), strict=True):
        channel[1:].addmm_(before[:-1], weights.state_to_sound)
    return weighted.flatten(1).numpy()


class _BlockFilter(NamedTuple):
    """A recursive filter as matrices: what a block of samples and the state before it make of the next."""

    sound_to_sound: "Tensor"
    sound_to_state: "Tensor"
    state_to_sound: "Tensor"
    state_to_state: "Tensor"
    """In double precision, since it is raised to high powers."""


@functools.cache
def _k_weighting(rate_hz: int) -> _BlockFilter:
    """Return the shelf and the high-pass of BS.1770, pyloudnorm's, for blocks of samples."""
    import pyloudnorm
    import scipy.signal  # type: ignore[import-untyped]
    import torch

    stages = pyloudnorm.Meter(rate_hz)._filters.values()
    sections = np.array([np.concatenate([stage.passband_gain * stage.b, stage.a]) for stage in stages])
    count, size = 2 * len(sections), _SAMPLES_A_PRODUCT
    rest = np.zeros((len(sections), size, 2))
    sound_to_sound, state = scipy.signal.sosfilt(sections, np.eye(size), zi=rest)
    sound_to_state = state.transpose(1, 0, 2).reshape(size, count)
    unit = np.eye(count).reshape(count, len(sections), 2).transpose(1, 0, 2)
    state_to_sound, state = scipy.signal.sosfilt(sections, np.zeros((count, size)), zi=unit)
    state_to_state = state.transpose(1, 0, 2).reshape(count, count)
    single = [torch.from_numpy(part.astype(np.float32)) for part in (sound_to_sound, sound_to_state, state_to_sound)]
    return _BlockFilter(single[0], single[1], single[2], torch.from_numpy(state_to_state.copy()))


def _lufs(mean_square: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return _OFFSET_LUFS + 10 * np.log10(mean_square)


def gain_db(
    wav: npt.NDArray[np.float32], lufs: float | None, target_lufs: float | None, peak_ceiling_dbfs: float
) -> float:
    """Return the gain in dB that brings a track to `target_lufs`, or as near as its highest sample allows.

    A track without a loudness, and every track where `target_lufs` is None, is left as it is.
    """
    if lufs is None or target_lufs is None:
        return 0.0
    peak = max(float(wav.max()), -float(wav.min()))
    return min(target_lufs - lufs, peak_ceiling_dbfs - 20 * math.log10(peak))


def rms_dbfs(wav: npt.NDArray[np.float32]) -> float:
    """Return the RMS level over all channels in dB relative to full scale; minus infinity for digital silence."""
    mean_square = float(sum(np.dot(channel, channel) for channel in wav)) / wav.size
    return 10 * math.log10(mean_square) if mean_square > 0 else -math.inf
