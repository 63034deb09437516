"""Acoustic fingerprints: 32 bits about twenty times a second, which survive lossy coding, gain, noise and resampling.

The bits are those of Haitsma & Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002): the sign of the difference
between the energies of neighbouring bands, differenced in time. Chromaprint would do as well, but no wheel includes its
library.
"""

import base64
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

RATE_HZ = 5512
_N_FFT = 2048
_HOP_LENGTH = 256
_NUM_BANDS = 33
"""One more than there are bits, since each bit compares two bands; logarithmically spaced, as in the paper."""
_STEP = 8
"""Frames between the spectra that are compared. At 0.37 s, the length of a window, a shift in time changes few bits."""
_LOWEST_HZ, _HIGHEST_HZ = 300.0, 2000.0
"""The range of the paper, which every codec keeps."""
LONGEST_S = 60.0
"""A longer track is represented by its beginning."""
_SHORTEST_WORDS = 32
"""Shorter overlaps, below 1.5 s, prove nothing."""
_NEIGHBOURS = 4
"""Entries of the sorted list of words with which each is compared."""
_LEAST_HITS = 2
"""Equal words at one offset that make two tracks a candidate pair."""

Words = npt.NDArray[np.uint32]
"""A fingerprint: shape (words,), 32 bits each; the paper calls them sub-fingerprints."""


def fingerprint_words(wav: npt.NDArray[np.float32], rate_hz: int) -> Words:
    """Return the fingerprint of a track, one word every 46 ms; empty for a very short one.

    Args:
        wav: Sound, shape (channels, samples).
        rate_hz: Its sample rate.
    """
    import scipy.fft  # type: ignore[import-untyped]
    import soxr

    mono = wav[:, : round(LONGEST_S * rate_hz)].mean(axis=0, dtype=np.float32)
    mono = np.asarray(soxr.resample(mono, rate_hz, RATE_HZ, quality="QQ"), np.float32)
    if len(mono) < _N_FFT + _STEP * _HOP_LENGTH:
        return np.zeros(0, np.uint32)
    # The steps of the paper: windowed frames that overlap strongly, then the energies of bands of equal width in log f,
    frames = np.lib.stride_tricks.sliding_window_view(mono, _N_FFT)[::_HOP_LENGTH] * _window()
    power = np.square(np.abs(scipy.fft.rfft(frames, axis=1)))  # (frames, 1025)
    edges = np.geomspace(_LOWEST_HZ, _HIGHEST_HZ, _NUM_BANDS + 1) * _N_FFT / RATE_HZ
    bands = np.add.reduceat(power[:, : round(edges[-1])], np.round(edges[:-1]).astype(int), axis=1)  # (frames, 33)
    # then bits: the sign of the difference along frequency, differenced along time. Other than in the paper, square roots even
    # out the bands, and the step in time is a window rather than a frame.
    slope = np.diff(np.sqrt(bands), axis=1)  # (frames, 32)
    bits = slope[_STEP:] > slope[:-_STEP]  # (frames - _STEP, 32)
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint32)[:, 0].copy()


def similarity(one: Words, other: Words, offset: int) -> float:
    """Return the share of equal bits in the overlap of two fingerprints.

    Args:
        one: A fingerprint.
        other: Another.
        offset: Words by which `other` is moved to the right.

    Returns:
        From 0 to 1; about 0.5 for unrelated sounds, and 0 if the overlap is too short.
    """
    start, end = max(0, offset), min(len(one), len(other) + offset)
    if end - start < max(_SHORTEST_WORDS, min(len(one), len(other)) // 2):
        return 0.0
    different = one[start:end] ^ other[start - offset : end - offset]
    return 1 - float(np.bitwise_count(different).sum()) / (32 * (end - start))


def similar_pairs(fingerprints: Sequence[Words], least: float) -> list[tuple[int, int, float]]:
    """Return the pairs of tracks whose fingerprints agree in at least a share of their bits.

    As in the search of the paper, candidates share whole words at one offset. They are found by sorting all words, so the cost
    grows with the number of words and not with that of pairs.

    Args:
        fingerprints: The fingerprints of all tracks.
        least: Least share of equal bits.

    Returns:
        Sorted tuples (first track, second track, share), the tracks by their index.
    """
    words = np.concatenate([*fingerprints, np.zeros(0, np.uint32)])
    owners = np.repeat(np.arange(len(fingerprints)), [len(item) for item in fingerprints])
    positions = np.concatenate([np.arange(len(item)) for item in fingerprints] or [np.zeros(0, int)])
    # All words of all tracks, sorted by word and then by track: equal words become neighbours.
    order = np.lexsort((owners, words))
    words, owners, positions = words[order], owners[order], positions[order]
    # A word that a track has several times counts once; 0 is the word of silence.
    first = np.ones(len(words), bool)
    first[1:] = (words[1:] != words[:-1]) | (owners[1:] != owners[:-1])
    first &= words != 0
    words, owners, positions = words[first], owners[first], positions[first]
    hits = []
    for step in range(1, _NEIGHBOURS + 1):
        same = words[step:] == words[:-step]
        offsets = positions[:-step][same] - positions[step:][same]
        hits.append(np.stack((owners[:-step][same], owners[step:][same], offsets), axis=1).astype(np.int32))
    # Pairs with several equal words at one offset are compared bit by bit there; the best offset counts.
    candidates, counts = np.unique(np.concatenate(hits), axis=0, return_counts=True)
    best: dict[tuple[int, int], float] = {}
    for left, right, offset in candidates[counts >= _LEAST_HITS].tolist():
        share = similarity(fingerprints[left], fingerprints[right], offset)
        best[left, right] = max(share, best.get((left, right), 0.0))
    return sorted((left, right, share) for (left, right), share in best.items() if share >= least)


def to_text(words: Words) -> str:
    """Return a fingerprint as text."""
    return base64.b85encode(words.astype("<u4").tobytes()).decode()


def from_text(text: str) -> Words:
    """Return the fingerprint of a text that `to_text` made."""
    return np.frombuffer(base64.b85decode(text), "<u4").astype(np.uint32)


def _window() -> npt.NDArray[np.float32]:
    return np.hanning(_N_FFT + 1)[:-1].astype(np.float32)
