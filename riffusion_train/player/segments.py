"""Segments of audio and image as they are sent: crossfaded, cut at exact samples, and buffered for all listeners."""

import collections
import dataclasses
import io
import json
import struct
from collections.abc import Iterator

import numpy as np
import PIL.Image

from riffusion_train.audio.marking import Mark, encode_image
from riffusion_train.player.settings import ClipSpec, Settings

MAGIC = b"RIFS"
_HEADER = struct.Struct("<4sIII")
_CEILING = 10 ** (-1 / 20)
"""Full scale less 1 dB: where a crossfade adds up to more, it is limited."""
_GUARD_S = 0.01
"""How far the limiter looks ahead and back. Nothing is mixed so close to a cut, so that the limiter leaves cuts alone."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """One piece of the audio and of the image, which have the same length, as bytes.

    Attributes:
        index: Its number in the stream, from 0.
        start_sample: Where it begins.
        n_samples: How long it is.
        pcm: Interleaved 16-bit samples, little-endian.
        png: The image of exactly these samples.
        spec: The clip that it shows.
        share: Settings of a session that begins with this segment, exactly.
        change: How many changes were made before it while the stream played; the first segment after a change replaces what was
            sent from its first sample on.
    """

    index: int
    start_sample: int
    n_samples: int
    pcm: bytes
    png: bytes
    spec: ClipSpec
    share: Settings
    change: int = 0

    @property
    def end_sample(self) -> int:
        """Where the next one begins."""
        return self.start_sample + self.n_samples

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.pcm) + len(self.png)

    def frame(self) -> bytes:
        """Return the binary message: a header of `RIFS`, index and two lengths, then audio, then image."""
        return _HEADER.pack(MAGIC, self.index, len(self.pcm), len(self.png)) + self.pcm + self.png

    def announcement(self, *, discontinuity: bool) -> str:
        """Return the text message that comes before the binary one."""
        message = {
            "index": self.index,
            "start_sample": self.start_sample,
            "n_samples": self.n_samples,
            "prompt_from": self.spec.prompt,
            "prompt_to": self.spec.prompt_to,
            "alpha": self.spec.alpha,
            "seed": self.spec.seed + int(self.spec.place),
            "num_inference_steps": self.spec.num_inference_steps,
            "share": self.share.shared(),
            "type": "segment",
            "change": self.change,
            "discontinuity": discontinuity,
        }
        return json.dumps(message, ensure_ascii=False)


class SegmentBuffer:
    """The newest segments of a stream.

    Args:
        max_samples: How much is kept; the newest segment stays in any case.
        max_bytes: The memory that it may take.
    """

    def __init__(self, max_samples: int, max_bytes: int) -> None:
        self._max_samples = max_samples
        self._max_bytes = max_bytes
        self._segments: collections.deque[Segment] = collections.deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def first_index(self) -> int:
        """The oldest segment that is kept."""
        return self._segments[0].index if self._segments else 0

    @property
    def next_index(self) -> int:
        """The segment that is not made yet."""
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
        """Add the next segment and drop the oldest ones that exceed the limits.

        Raises:
            ValueError: If it is not the next one.
        """
        if segment.index != self.next_index or segment.start_sample != self.end_sample:
            raise ValueError(f"segment {segment.index} does not follow the one before it")
        self._segments.append(segment)
        self.bytes += segment.size
        while len(self._segments) > 1 and self._is_full():
            self.bytes -= self._segments.popleft().size

    def truncate(self, sample: int, channels: int, hop_length: int, mark: Mark) -> None:
        """Drop everything from a sample on: what was made ahead is not heard.

        Args:
            sample: A multiple of `hop_length`.
            channels: Channels of the audio.
            hop_length: Samples for one column of the image.
            mark: What the shortened image is marked with.
        """
        while self._segments and self._segments[-1].start_sample >= sample:
            self.bytes -= self._segments.pop().size
        if not self._segments or self.end_sample <= sample:
            return
        last = self._segments.pop()
        self.bytes -= last.size
        pcm = last.pcm[: 2 * channels * (sample - last.start_sample)]
        png = encode_png(image_between([last], last.start_sample, sample, hop_length), mark)
        shorter = dataclasses.replace(last, n_samples=sample - last.start_sample, pcm=pcm, png=png)
        self._segments.append(shorter)
        self.bytes += shorter.size

    def at(self, sample: int) -> Segment | None:
        """Return the segment that a sample is in; None where it is not kept."""
        return next(iter(self.between(sample, sample + 1)), None)

    def get(self, index: int) -> Segment | None:
        """Return a segment; None where it is not kept."""
        position = index - self.first_index
        return self._segments[position] if 0 <= position < len(self._segments) else None

    def between(self, start_sample: int, end_sample: int) -> list[Segment]:
        """Return the segments of a range of samples."""
        return [one for one in self._segments if one.start_sample < end_sample and one.end_sample > start_sample]

    def _is_full(self) -> bool:
        return self.bytes > self._max_bytes or self.end_sample - self._segments[1].start_sample >= self._max_samples


def crossfade(previous: np.ndarray | None, current: np.ndarray, length: int, rate_hz: int) -> np.ndarray:
    """Return a segment: `current`, whose first samples are those of the clip before it, faded into its own.

    Since clips loop, the beginning of the previous clip is also how it goes on after its end.

    Args:
        previous: The looping clip before, float32 (channels, samples); None where the stream begins.
        current: The looping clip, of the same shape.
        length: Samples of the crossfade.
        rate_hz: Sample rate.
    """
    if previous is None:
        return current
    guard = min(2 * round(_GUARD_S * rate_hz), length // 4)
    outgoing, incoming = previous[:, guard:length], current[:, guard:length]
    fade_out, fade_in = _gains(outgoing, incoming, length - guard)
    mixed = np.concatenate([previous[:, :guard], outgoing * fade_out + incoming * fade_in, current[:, length:]], axis=1)
    stop = min(length + guard, mixed.shape[1])
    mixed[:, :stop] = _limited(mixed[:, :stop], guard // 2)
    return mixed


def to_pcm(wav: np.ndarray) -> bytes:
    """Return samples in [-1, 1], (channels, samples), as interleaved 16-bit integers, little-endian."""
    return np.rint(wav.T.clip(-1, 1) * 32767).astype("<i2").tobytes()


def encode_png(image: np.ndarray, mark: Mark) -> bytes:
    """Return an image, uint8, as PNG with the mark of the model that made it."""
    return encode_image(PIL.Image.fromarray(image), "PNG", mark, compress_level=1)


def samples_between(segments: list[Segment], start_sample: int, end_sample: int, channels: int) -> np.ndarray:
    """Return the samples of a range, int16 (samples, channels), from segments that cover it."""
    parts = [
        np.frombuffer(one.pcm, "<i2").reshape(-1, channels)[
            max(start_sample - one.start_sample, 0) : end_sample - one.start_sample
        ]
        for one in segments
    ]
    return np.concatenate([np.zeros((0, channels), np.int16), *parts])


def image_between(segments: list[Segment], start_sample: int, end_sample: int, hop_length: int) -> np.ndarray:
    """Return the columns that are heard in a range of samples, from segments that cover it."""
    return np.concatenate(list(_columns(segments, start_sample, end_sample, hop_length)), axis=1)


def _columns(segments: list[Segment], start_sample: int, end_sample: int, hop_length: int) -> Iterator[np.ndarray]:
    for one in segments:
        with PIL.Image.open(io.BytesIO(one.png)) as image:
            first = max(start_sample - one.start_sample, 0) // hop_length
            last = -(-(end_sample - one.start_sample) // hop_length)
            yield np.asarray(image)[:, first : max(last, first)]


def _gains(outgoing: np.ndarray, incoming: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return gains (length,) that keep the power of the mix constant, whether the two are alike or not.

    Equal-power gains (cosine and sine) are right for unlike signals; alike ones would become louder in the middle, by the
    power 1 + 2 c cos sin of a mix of two signals of one level with correlation c.
    """
    angle = np.linspace(0, np.pi / 2, length + 2)[1:-1]
    fade_out, fade_in = np.cos(angle), np.sin(angle)
    energy = float(np.sqrt(np.square(outgoing).sum() * np.square(incoming).sum()))
    correlation = max(float((outgoing * incoming).sum()) / energy, 0.0) if energy else 0.0
    level = np.sqrt(1 + 2 * correlation * fade_out * fade_in)
    return (fade_out / level).astype(np.float32), (fade_in / level).astype(np.float32)


def _limited(wav: np.ndarray, reach: int) -> np.ndarray:
    """Return a signal whose peaks are brought to the ceiling by a gain that changes smoothly.

    Args:
        wav: float32 (channels, samples).
        reach: Samples that the gain begins to change before a peak and after it.
    """
    import scipy.ndimage  # type: ignore[import-untyped]

    peaks = np.abs(wav).max(axis=0)
    if reach < 1 or float(peaks.max(initial=0.0)) <= _CEILING:
        return wav
    # The lowest gain within reach of each sample, then smoothed by a window of the same width: never above what is needed.
    needed = np.minimum(1.0, _CEILING / np.maximum(peaks, 1e-9))
    lowest = scipy.ndimage.minimum_filter1d(needed, 2 * reach + 1, mode="nearest")
    window = np.hanning(2 * reach + 3)[1:-1]
    gain = np.convolve(np.pad(lowest, reach, mode="edge"), window / window.sum(), "valid")
    return np.asarray(wav * gain, np.float32)
