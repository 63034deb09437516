"""Segments that follow one another without a gap: loops that give way to one another, cut at exact samples.

Every clip is a loop, so it is followed by its own beginning. A segment begins with the loop before it, which gives way to
its own loop; it ends where its own loop begins anew, and that is where the next segment begins. So the samples at a cut are
neighbours in one and the same loop, and a segment depends on two clips alone: it can be made again without its past.
"""

import numpy as np

_CEILING = 10 ** (-1 / 20)
_GUARD_S = 0.01
"""What the limiter looks ahead and behind; nothing is mixed so near a cut, so that it leaves the cuts alone."""


def join(before: np.ndarray | None, loop: np.ndarray, crossing: int, rate_hz: int) -> np.ndarray:
    """Return a segment: `loop`, whose first samples are those of the loop before it, which gives way.

    Args:
        before: The loop before, float32 (channels, samples); None where the sound begins.
        loop: The loop, of the same shape.
        crossing: Samples in which one gives way to the other.
        rate_hz: Sample rate.
    """
    if before is None:
        return loop
    guard = min(2 * round(_GUARD_S * rate_hz), crossing // 4)
    fade = crossing - guard
    one, other = before[:, guard:crossing], loop[:, guard:crossing]
    first, second = _weights(one, other, fade)
    mixed = np.concatenate([before[:, :guard], one * first + other * second, loop[:, crossing:]], axis=1)
    stop = min(crossing + guard, mixed.shape[1])
    mixed[:, :stop] = _limited(mixed[:, :stop], guard // 2)
    return mixed


def to_pcm(wav: np.ndarray) -> bytes:
    """Return samples in [-1, 1], (channels, samples), as interleaved 16-bit integers, little-endian."""
    return np.rint(wav.T.clip(-1, 1) * 32767).astype("<i2").tobytes()


def _weights(one: np.ndarray, other: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return gains that keep the power of a mix of two sounds as like each other as these are."""
    share = np.linspace(0, np.pi / 2, length + 2)[1:-1]
    first, second = np.cos(share), np.sin(share)
    energy = float(np.sqrt(np.square(one).sum() * np.square(other).sum()))
    likeness = max(float((one * other).sum()) / energy, 0.0) if energy else 0.0
    power = np.sqrt(1 + 2 * likeness * first * second)  # of the mix of two sounds of one level
    return (first / power).astype(np.float32), (second / power).astype(np.float32)


def _limited(wav: np.ndarray, reach: int) -> np.ndarray:
    """Return a sound whose peaks are brought to the ceiling by a gain that moves smoothly."""
    import scipy.ndimage  # type: ignore[import-untyped]

    peaks = np.abs(wav).max(axis=0)
    if reach < 1 or float(peaks.max(initial=0.0)) <= _CEILING:
        return wav
    wanted = np.minimum(1.0, _CEILING / np.maximum(peaks, 1e-9))
    lowest = scipy.ndimage.minimum_filter1d(wanted, 2 * reach + 1, mode="nearest")
    bell = np.hanning(2 * reach + 3)[1:-1]
    gain = np.convolve(np.pad(lowest, reach, mode="edge"), bell / bell.sum(), "valid")
    return np.asarray(wav * gain, np.float32)
