"""Acoustic fingerprints: 32 bits about twenty times a second, which survive coding, level, noise and resampling.

The bits are those of Haitsma & Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002): the sign of the difference
of neighbouring bands' energies, differenced in time. Chromaprint would do as well, but no wheel brings its library.
"""

import base64
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

RATE_HZ = 5512
_N_FFT = 2048
_HOP_LENGTH = 256
_NUM_BANDS = 33
_STEP = 8
"""Frames between which the bands are compared: at 0.37 s, a window, a shift of the cuts changes few bits."""
_LOWEST_HZ, _HIGHEST_HZ = 300.0, 2000.0
LONGEST_S = 60.0
"""What a fingerprint covers of a long track, from its beginning."""
_SHORTEST_WORDS = 32
_NEIGHBOURS = 4
_LEAST_HITS = 2

Words = npt.NDArray[np.uint32]


def fingerprint_words(wav: npt.NDArray[np.float32], rate_hz: int) -> Words:
    """Return the fingerprint of a track, one word every 46 ms.

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
    frames = np.lib.stride_tricks.sliding_window_view(mono, _N_FFT)[::_HOP_LENGTH] * _window()
    power = np.square(np.abs(scipy.fft.rfft(frames, axis=1)))  # (frames, 1025)
    edges = np.geomspace(_LOWEST_HZ, _HIGHEST_HZ, _NUM_BANDS + 1) * _N_FFT / RATE_HZ
    bands = np.add.reduceat(power[:, : round(edges[-1])], np.round(edges[:-1]).astype(int), axis=1)  # (frames, 33)
    slope = np.diff(np.sqrt(bands), axis=1)
    bits = slope[_STEP:] > slope[:-_STEP]  # (frames - _STEP, 32)
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint32)[:, 0].copy()


def similarity(one: Words, other: Words, offset: int) -> float:
    """Return the share of equal bits where `other`, moved by `offset` words, lies over `one`; 0 if that is too short."""
    start, end = max(0, offset), min(len(one), len(other) + offset)
    if end - start < max(_SHORTEST_WORDS, min(len(one), len(other)) // 2):
        return 0.0
    different = one[start:end] ^ other[start - offset : end - offset]
    return 1 - float(np.bitwise_count(different).sum()) / (32 * (end - start))


def similar_pairs(fingerprints: Sequence[Words], least: float) -> list[tuple[int, int, float]]:
    """Return the pairs of tracks whose fingerprints agree in at least `least` of their bits: (first, second, share).

    Candidates share whole words at one offset; they are found by sorting all words, so the cost grows with the number of words
    and not with that of pairs.
    """
    words = np.concatenate([*fingerprints, np.zeros(0, np.uint32)])
    owners = np.repeat(np.arange(len(fingerprints)), [len(item) for item in fingerprints])
    places = np.concatenate([np.arange(len(item)) for item in fingerprints] or [np.zeros(0, int)])
    order = np.lexsort((owners, words))
    words, owners, places = words[order], owners[order], places[order]
    first = np.ones(len(words), bool)  # of a word that a track has often, once
    first[1:] = (words[1:] != words[:-1]) | (owners[1:] != owners[:-1])
    first &= words != 0
    words, owners, places = words[first], owners[first], places[first]
    hits = []
    for step in range(1, _NEIGHBOURS + 1):
        same = words[step:] == words[:-step]
        found = (owners[:-step][same], owners[step:][same], places[:-step][same] - places[step:][same])
        hits.append(np.stack(found, axis=1).astype(np.int32))
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
