"""Where the windows of a track lie: at a fixed stride, on beats and bars, between silences, or at random."""

import hashlib
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from riffusion_train.audio.read import Samples

_FRAME_S = 0.05
_FRAMES_AT_ONCE = 1200
_PAUSE_S = 0.5
"""Shorter silences do not split a stretch of sound."""
_WHOLE_S, _PIECE_S = 600.0, 300.0
"""Longest track whose beats are found at once, and pieces of longer ones."""
_BEAT_RATE_HZ = 22050
_BEAT_HOP_LENGTH = 512
BEATS_PER_BAR = 4


class Window(NamedTuple):
    """A stretch of a track, in samples."""

    start: int
    length: int
    """At most one clip; a shorter window is padded with silence."""


def fixed_windows(num_samples: int, clip_samples: int, stride_samples: int, shortest_samples: int) -> list[Window]:
    """Return windows at every multiple of the stride.

    All are full except perhaps the last one. It exists if the full ones leave audio uncovered, and at least
    `shortest_samples` remain from the next multiple of the stride to the end. With `shortest_samples >= clip_samples` all
    windows are full.
    """
    windows = []
    start = 0
    while start + clip_samples <= num_samples:
        windows.append(Window(start, clip_samples))
        start += stride_samples
    covered = windows[-1].start + clip_samples if windows else 0
    rest = num_samples - start
    if covered < num_samples and rest >= max(1, shortest_samples):
        windows.append(Window(start, rest))
    return windows


def overlap_back(windows: list[Window], num_samples: int, clip_samples: int) -> list[Window]:
    """Return the full windows, and another that ends with the audio if they do not reach its end."""
    full = [window for window in windows if window.length == clip_samples]
    end = full[-1].start + clip_samples if full else 0
    if end < num_samples and num_samples >= clip_samples:
        full.append(Window(num_samples - clip_samples, clip_samples))
    return full


def aligned_windows(points: Sequence[int], num_samples: int, clip_samples: int, stride_samples: int) -> list[Window]:
    """Return full windows that begin at given points, such as beats: each at the first point a stride after the last one.

    Args:
        points: Where windows may begin, in samples, ascending.
        num_samples: Length of the track.
        clip_samples: Length of a window.
        stride_samples: Least distance of two starts, with a tolerance of 0.5 % since beats are estimates.
    """
    windows: list[Window] = []
    for point in points:
        far_enough = not windows or point >= windows[-1].start + stride_samples - stride_samples // 200
        if far_enough and point + clip_samples <= num_samples:
            windows.append(Window(point, clip_samples))
    return windows


def random_windows(num_samples: int, clip_samples: int, count: int, address: str) -> list[Window]:
    """Return up to `count` full windows at random positions, in order.

    Args:
        num_samples: Length of the track.
        clip_samples: Length of a window.
        count: Number of windows; equal ones count once.
        address: Decides the positions: the seed and the hash of the file.
    """
    last_start = num_samples - clip_samples
    if last_start <= 0:
        return []
    draws = (hashlib.sha256(f"{address}\n{index}".encode()).digest() for index in range(count))
    # The first 64 bits of a hash as a fraction of the range 0 to last_start.
    starts = {int.from_bytes(draw[:8], "big") * (last_start + 1) >> 64 for draw in draws}
    return [Window(start, clip_samples) for start in sorted(starts)]


def spread(windows: Sequence[Window], most: int | None) -> list[Window]:
    """Return at most `most` windows, evenly spread over all of them; all if `most` is None."""
    if most is None or len(windows) <= most:
        return list(windows)
    return [windows[index * len(windows) // most] for index in range(most)]


def sounding_stretches(samples: Samples, rate_hz: int, silence_dbfs: float) -> list[Window]:
    """Return the stretches of a track between silences of half a second and more.

    Args:
        samples: Sound.
        rate_hz: Its sample rate.
        silence_dbfs: RMS level below which a frame of 0.05 s is silent.
    """
    frame = max(1, round(rate_hz * _FRAME_S))
    levels = []
    for wav in samples.blocks(frame * _FRAMES_AT_ONCE):
        count = -(-wav.shape[1] // frame)
        padded = np.pad(wav, ((0, 0), (0, count * frame - wav.shape[1])))
        levels.append(np.square(padded, dtype=np.float64).mean(axis=0).reshape(count, frame).mean(axis=1))
    loud = np.flatnonzero(np.concatenate(levels) >= 10 ** (silence_dbfs / 10))
    if not len(loud):
        return []
    # A stretch ends at a gap of more than a pause between two loud frames.
    breaks = np.flatnonzero(np.diff(loud) > round(_PAUSE_S / _FRAME_S))
    firsts, lasts = loud[np.r_[0, breaks + 1]], loud[np.r_[breaks, len(loud) - 1]]
    ends = np.minimum((lasts + 1) * frame, samples.length)
    return [Window(int(start), int(end - start)) for start, end in zip(firsts * frame, ends, strict=True)]


def find_beats_of(samples: Samples, rate_hz: int, bars: bool = False) -> list[int]:
    """Return the starts of the beats of a track in samples.

    Of a track of more than ten minutes, they are found in equal pieces of at most five: the search needs 30 times the memory of
    its sound, and the tempo of an hour is not one. Arguments as of `find_beats`.
    """
    if samples.length <= _WHOLE_S * rate_hz:
        return find_beats(samples.whole(), rate_hz, bars)
    pieces = -(-samples.length // round(_PIECE_S * rate_hz))
    edges = [samples.length * number // pieces for number in range(pieces + 1)]
    return [
        start + beat
        for start, stop in itertools.pairwise(edges)
        for beat in find_beats(samples.read(start, stop), rate_hz, bars)
    ]


def find_beats(wav: npt.NDArray[np.float32], rate_hz: int, bars: bool = False) -> list[int]:
    """Return the starts of the beats in samples; empty if the sound has no onsets.

    The beats are those of librosa, by dynamic programming (Ellis, "Beat Tracking by Dynamic Programming", 2007).

    Args:
        wav: Sound, shape (channels, samples).
        rate_hz: Its sample rate.
        bars: Return only every fourth beat, on the phase with the strongest onsets. A bar of four beats is assumed.
    """
    import soxr
    from librosa.beat import beat_track
    from librosa.onset import onset_strength

    mono = np.asarray(soxr.resample(wav.mean(axis=0), rate_hz, _BEAT_RATE_HZ), np.float32)
    onsets = onset_strength(y=mono, sr=_BEAT_RATE_HZ, hop_length=_BEAT_HOP_LENGTH)
    if not onsets.any():
        return []
    _, frames = beat_track(onset_envelope=onsets, sr=_BEAT_RATE_HZ, hop_length=_BEAT_HOP_LENGTH, trim=False)
    if bars and len(frames):
        phases = [
            float(onsets[frames[phase::BEATS_PER_BAR]].mean()) for phase in range(min(BEATS_PER_BAR, len(frames)))
        ]
        frames = frames[int(np.argmax(phases)) :: BEATS_PER_BAR]
    return [round(float(frame) * _BEAT_HOP_LENGTH * rate_hz / _BEAT_RATE_HZ) for frame in frames]
