"""Segments of sound and image as they are sent: crossfaded, cut at exact samples, and buffered for all listeners."""

import collections
import dataclasses
import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image

from riffusion_train.player.settings import ClipSpec, Settings

MAGIC = b"RIFS"
_HEADER = struct.Struct("<4sIII")


@dataclasses.dataclass(frozen=True)
class Segment:
    """One piece of the sound and of the picture, which are of one length, as bytes.

    Attributes:
        index: Its place in the stream.
        start_sample: Where it begins.
        n_samples: How long it is.
        pcm: Interleaved 16-bit samples, little-endian.
        png: The picture of exactly these samples.
        spec: The clip it shows.
        share: Settings of a session that begins with this segment, all of it.
    """

    index: int
    start_sample: int
    n_samples: int
    pcm: bytes
    png: bytes
    spec: ClipSpec
    share: Settings

    @property
    def end_sample(self) -> int:
        """Where the next one begins."""
        return self.start_sample + self.n_samples

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.pcm) + len(self.png)

    def frame(self) -> bytes:
        """Return the binary message: a header of `RIFS`, index and lengths, then sound, then picture."""
        return _HEADER.pack(MAGIC, self.index, len(self.pcm), len(self.png)) + self.pcm + self.png

    def announcement(self, *, discontinuity: bool) -> str:
        """Return the text message that comes before it."""
        return json.dumps({**self.facts(), "type": "segment", "discontinuity": discontinuity}, ensure_ascii=False)

    def facts(self) -> dict[str, Any]:
        """Return what a page shows of it."""
        return {
            "index": self.index,
            "start_sample": self.start_sample,
            "n_samples": self.n_samples,
            "prompt_from": self.spec.prompt,
            "prompt_to": self.spec.prompt_to,
            "alpha": self.spec.alpha,
            "seed": self.spec.seed + int(self.spec.place),
            "num_inference_steps": self.spec.num_inference_steps,
            "share": dataclasses.asdict(self.share),
        }


class SegmentBuffer:
    """The last segments of a stream.

    Args:
        most_samples: How much of the past is kept; the newest segments stay in any case.
        most_bytes: The memory that it may take.
    """

    def __init__(self, most_samples: int, most_bytes: int) -> None:
        self._most_samples = most_samples
        self._most_bytes = most_bytes
        self._segments: collections.deque[Segment] = collections.deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def first_index(self) -> int:
        """The oldest segment that is here."""
        return self._segments[0].index if self._segments else 0

    @property
    def next_index(self) -> int:
        """The segment that is not here yet."""
        return self._segments[-1].index + 1 if self._segments else 0

    @property
    def first_sample(self) -> int:
        """Where the oldest segment begins."""
        return self._segments[0].start_sample if self._segments else 0

    @property
    def end_sample(self) -> int:
        """Where the newest segment ends."""
        return self._segments[-1].end_sample if self._segments else 0

    def append(self, segment: Segment) -> None:
        """Take the next segment and let the oldest go where there is no room.

        Raises:
            ValueError: If it is not the next one.
        """
        if segment.index != self.next_index or segment.start_sample != self.end_sample:
            raise ValueError(f"segment {segment.index} does not follow the one before it")
        self._segments.append(segment)
        self.bytes += segment.size
        while len(self._segments) > 1 and self._is_full():
            self.bytes -= self._segments.popleft().size

    def get(self, index: int) -> Segment | None:
        """Return a segment; None where it is not here."""
        place = index - self.first_index
        return self._segments[place] if 0 <= place < len(self._segments) else None

    def between(self, start_sample: int, end_sample: int) -> list[Segment]:
        """Return the segments of a range of samples."""
        return [one for one in self._segments if one.start_sample < end_sample and one.end_sample > start_sample]

    def _is_full(self) -> bool:
        return self.bytes > self._most_bytes or self.end_sample - self._segments[1].start_sample >= self._most_samples


def encode_png(picture: np.ndarray) -> bytes:
    """Return a picture as PNG."""
    out = io.BytesIO()
    PIL.Image.fromarray(picture).save(out, "PNG", compress_level=1)
    return out.getvalue()


def samples_between(segments: list[Segment], start_sample: int, end_sample: int, channels: int) -> np.ndarray:
    """Return the samples of a range, int16 (samples, channels), of segments that hold all of it."""
    parts = [
        np.frombuffer(one.pcm, "<i2").reshape(-1, channels)[
            max(start_sample - one.start_sample, 0) : end_sample - one.start_sample
        ]
        for one in segments
    ]
    return np.concatenate([np.zeros((0, channels), np.int16), *parts])


def picture_between(segments: list[Segment], start_sample: int, end_sample: int, hop_length: int) -> np.ndarray:
    """Return the columns that are heard in a range of samples, of segments that hold all of it."""
    return np.concatenate(list(_columns(segments, start_sample, end_sample, hop_length)), axis=1)


def _columns(segments: list[Segment], start_sample: int, end_sample: int, hop_length: int) -> Iterator[np.ndarray]:
    for one in segments:
        with PIL.Image.open(io.BytesIO(one.png)) as image:
            first = max(start_sample - one.start_sample, 0) // hop_length
            last = -(-(end_sample - one.start_sample) // hop_length)
            yield np.asarray(image)[:, first : max(last, first)]


_CEILING = 10 ** (-1 / 20)
_GUARD_S = 0.01
"""What the limiter looks ahead and behind; nothing is mixed so near a cut, so that it leaves the cuts alone."""


def crossfade(before: np.ndarray | None, loop: np.ndarray, crossing: int, rate_hz: int) -> np.ndarray:
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
