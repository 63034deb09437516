"""Audio files in: any format to samples, with what its container declares, so that damaged files are recognised.

A file is decoded, and resampled, block by block. All of them together are the samples that one block would be, to the bit, so a
recording of hours can go to a temporary file instead of memory.
"""

import contextlib
import dataclasses
import errno
import os
import struct
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import soxr

from riffusion_train.runtime.errors import InputError

COMPLETE_SHARE = 0.95
"""A file whose decoded length is below this share of the declared one is truncated; codecs' padding is far smaller."""
_COUNTED_TOLERANCE_S = 0.1
_SAME_ORDER = 2
"""Largest number of channels that FFmpeg and libvorbis put in the same order."""

_KINDS = {
    "WAV": (".wav", ".wave", ".bwf"),
    "WAVEX": (".wav", ".wave", ".bwf"),
    "RF64": (".wav", ".wave", ".bwf", ".rf64"),
    "W64": (".w64",),
    "FLAC": (".flac",),
    "OGG": (".ogg", ".oga", ".opus"),
    "MP3": (".mp3", ".mp2"),
    "AIFF": (".aif", ".aiff", ".aifc"),
    "mov,mp4,m4a,3gp,3g2,mj2": (".m4a", ".m4b", ".mp4"),
    "matroska,webm": (".mka", ".mkv", ".webm"),
    "asf": (".wma", ".asf"),
    "aac": (".aac",),
}
"""Suffixes that fit a container; for containers that are not listed, any name is accepted."""
_stderr_lock = threading.Lock()
_LOWEST_HZ, _HIGHEST_HZ = 1000, 768_000
"""Sample rates that audio has. A filter for another one, made up of a damaged header, may need more memory than there is."""


_BLOCK_SAMPLES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the disk of the temporary file, which say nothing about the audio."""
_HELD_BYTES = 128_000_000
"""Longer sounds go to a temporary file, where one is allowed: stereo of six minutes at 44.1 kHz."""


class Samples:
    """The samples of a sound, float32 (channels, samples), in memory, or in a temporary file if they are many.

    Args:
        channels: Number of channels.
        expected: How many samples will come, as far as that is known.
        scratch: Folder for a temporary file; None keeps any number of samples in memory.
    """

    def __init__(self, channels: int, expected: int = 0, scratch: Path | None = None) -> None:
        self.channels = channels
        self.length = 0
        self._scratch = scratch
        self._files: list[BinaryIO] = []
        self._factor: np.float32 | None = None
        self._held = np.empty((channels, 0), np.float32)
        self._reserve(expected)

    @classmethod
    def of(cls, wav: npt.NDArray[np.float32]) -> Self:
        """Return the samples of an array, (channels, samples), which is not copied."""
        samples = cls(wav.shape[0])
        samples._held, samples.length = wav, wav.shape[1]
        return samples

    def append(self, block: npt.NDArray[np.float32]) -> None:
        """Add samples at the end, (channels, samples)."""
        stop = self.length + block.shape[1]
        if not self._files and stop > self._held.shape[1]:
            self._reserve(max(stop, 3 * self._held.shape[1] // 2))
        if self._files:
            for file, row in zip(self._files, block, strict=True):
                file.write(np.ascontiguousarray(row, np.float32).tobytes())
        else:
            self._held[:, self.length : stop] = block
        self.length = stop

    def scale(self, factor: np.float32) -> None:
        """Multiply all samples; once at most, and none may be added later."""
        if self._files:
            self._factor = factor
        else:
            self._held[:, : self.length] *= factor

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return the samples from `start` to before `stop`, or to the end, (channels, samples); do not change them."""
        stop = min(stop, self.length)
        if not self._files:
            return self._held[:, start:stop]
        block = np.stack([_read_floats(file, start, max(0, stop - start)) for file in self._files])
        if self._factor is not None:
            block *= self._factor
        return block

    def blocks(self, num_samples: int | None = None) -> Iterator[npt.NDArray[np.float32]]:
        """Yield all samples in order, so many at a time, some 20 seconds of them by default; once where there are none."""
        num_samples = num_samples or _BLOCK_SAMPLES
        for start in range(0, max(1, self.length), num_samples):
            yield self.read(start, start + num_samples)

    def whole(self) -> npt.NDArray[np.float32]:
        """Return all samples, (channels, samples)."""
        return self.read(0, self.length)

    def _reserve(self, num_samples: int) -> None:
        """Have space for so many samples, in memory or in files, one for each channel, that have no name."""
        if self._scratch is None or 4 * self.channels * num_samples <= _HELD_BYTES:
            held = np.empty((self.channels, num_samples), np.float32)
            held[:, : self.length] = self._held[:, : self.length]
            self._held = held
            return
        self._files = [tempfile.TemporaryFile(dir=self._scratch) for _ in range(self.channels)]  # noqa: SIM115
        for file, row in zip(self._files, self._held, strict=True):
            file.write(row[: self.length].tobytes())
        self._held = self._held[:, :0]


def _read_floats(file: BinaryIO, start: int, count: int) -> npt.NDArray[np.float32]:
    file.flush()
    content = os.pread(file.fileno(), 4 * count, 4 * start)
    while len(content) < 4 * count:
        content += os.pread(file.fileno(), 4 * count - len(content), 4 * start + len(content))
    return np.frombuffer(content, np.float32)


class DecodedAudio(NamedTuple):
    """The samples of a file, and what its container declares about them."""

    samples: Samples
    """In [-1, 1]; there may be none, or some that are not numbers."""
    rate_hz: int
    container: str
    """The container, by libsndfile's or FFmpeg's name."""
    declared_s: float | None
    """Seconds that the container declares; None where it does not say."""
    bad_packets: int
    """Packets that could not be decoded and were left out."""
    unmarked_end: bool
    """Whether a format that marks its end (Ogg) ends without the mark."""
    counted: bool = False
    """Whether `declared_s` counts samples; containers of compressed sound often only estimate it."""

    @property
    def wav(self) -> npt.NDArray[np.float32]:
        """All samples, (channels, samples)."""
        return self.samples.whole()

    @property
    def duration_s(self) -> float:
        """Seconds that were decoded."""
        return self.samples.length / self.rate_hz


def decode_audio(path: Path, scratch: Path | None = None) -> DecodedAudio:
    """Decode an audio file of any kind.

    Args:
        path: The file.
        scratch: Folder for the samples of a long one, in a temporary file; None keeps all in memory.

    Raises:
        InputError: If it is missing, empty, nothing in it can be read as audio, or its sample rate cannot be.
    """
    import soundfile

    try:
        if path.is_file() and path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty")
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    with _silent_stderr():
        try:
            return _decode_soundfile(path, scratch)
        except (soundfile.SoundFileError, RuntimeError, MemoryError):
            return _decode_av(path, scratch)


def _check_rate(path: Path, rate_hz: int) -> None:
    if not _LOWEST_HZ <= rate_hz <= _HIGHEST_HZ:
        raise InputError(
            f"{path}: a sample rate of {rate_hz} Hz is outside {_LOWEST_HZ} to {_HIGHEST_HZ} Hz; its header must be wrong"
        )


def decoding_problems(decoded: DecodedAudio) -> dict[str, str]:
    """Return what is wrong with a decoded file, as kind (truncated, damaged, longer than declared) and explanation."""
    problems = {}
    declared_s, duration_s = decoded.declared_s, decoded.duration_s
    least = COMPLETE_SHARE if declared_s is None or not decoded.counted else 1 - _COUNTED_TOLERANCE_S / declared_s
    if declared_s is not None and duration_s < least * declared_s:
        problems["truncated"] = f"{duration_s:.2f} s could be decoded of the {declared_s:.2f} s its container declares"
    elif decoded.unmarked_end:
        problems["truncated"] = f"it breaks off at {duration_s:.1f} s, without the mark that ends such a file"
    elif declared_s is not None and declared_s < COMPLETE_SHARE * duration_s:
        problems["longer than declared"] = f"{duration_s:.1f} s were decoded, its container declares {declared_s:.1f} s"
    if decoded.bad_packets:
        plural = "" if decoded.bad_packets == 1 else "s"
        problems["damaged"] = f"{decoded.bad_packets} packet{plural} could not be decoded and are left out"
    return problems


def misnamed(name: str, container: str) -> str | None:
    """Return what is wrong with a file's suffix, given its container; None where it fits."""
    suffix, suffixes = Path(name).suffix, _KINDS.get(container)
    if not suffixes or suffix.lower() in suffixes:
        return None
    return f"named {suffix or 'without a suffix'}, holds {container.split(',')[0]}"


def _decode_soundfile(path: Path, scratch: Path | None) -> DecodedAudio:
    import soundfile

    with soundfile.SoundFile(path) as file:
        container, rate_hz = str(file.format), int(file.samplerate)
        _check_rate(path, rate_hz)
        frames = declared_frames(path, container)
        if frames is None and container in ("FLAC", "MP3"):  # for the others libsndfile reports what is there
            frames = file.frames
        fast = _vorbis(path, file.frames, file.channels, scratch) if file.subtype == "VORBIS" else None
        samples = _planar(file, scratch) if fast is None else fast
    unmarked = container == "OGG" and ends_unmarked(path)
    declared_s = frames / rate_hz if frames else None
    counted = container != "MP3"
    return DecodedAudio(samples, rate_hz, container, declared_s, 0, unmarked, counted)


def _vorbis(path: Path, frames: int, channels: int, scratch: Path | None) -> Samples | None:
    """Decode an Ogg Vorbis file by FFmpeg, equal to libvorbis within 1e-6.

    None where a packet is broken, where it is not as long as libsndfile says, or has more than two channels, whose order
    differs.
    """
    import av

    if channels > _SAME_ORDER:
        return None
    decoded = Samples(channels, frames, scratch)
    block = np.empty((channels, _BLOCK_SAMPLES), np.float32)
    rows, end = list(block), 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(audio=0):  # a frame has some hundred samples: this loop must be fast
                samples, planes = frame.samples, frame.planes
                if end + samples > _BLOCK_SAMPLES:
                    decoded.append(block[:, :end])
                    end = 0
                start, end = end, end + samples
                if decoded.length + end > frames or len(planes) != channels:
                    return None
                for row, plane in zip(rows, planes, strict=True):
                    row[start:end] = np.frombuffer(plane, np.float32, samples)
    except (av.FFmpegError, ValueError, OSError):
        return None
    decoded.append(block[:, :end])
    return decoded if decoded.length == frames else None


def _planar(file: Any, scratch: Path | None) -> Samples:
    """Read all of an open `soundfile.SoundFile`."""
    samples = Samples(file.channels, file.frames, scratch)
    # The same values as libsndfile's own conversion, in a third of the time; its FLAC decoder is as fast.
    as_integers = file.subtype == "PCM_16" and file.format != "FLAC"
    dtype = "int16" if as_integers else "float32"
    while (asked := min(_BLOCK_SAMPLES, file.frames - samples.length)) > 0:
        block = file.read(asked, dtype=dtype, always_2d=True)
        planar = np.empty(block.shape[::-1], np.float32)
        for channel, column in zip(planar, block.T, strict=True):
            np.multiply(column, np.float32(1 / 32768 if as_integers else 1), out=channel)
        samples.append(planar)
        if len(block) < asked:  # what libsndfile would read after a gap is not the sound's continuation
            break
    return samples


def _decode_av(path: Path, scratch: Path | None) -> DecodedAudio:
    """Decode packet by packet, so that a broken packet is left out and the rest of the file is kept."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise InputError(f"{path}: holds no audio")
            _check_rate(path, int(container.streams.audio[0].rate or _LOWEST_HZ))
            declared_s = container.duration / av.time_base if container.duration else None
            kind = str(container.format.name)
            samples, rate_hz, bad_packets = _decode_packets(container, scratch)
    except (av.FFmpegError, ValueError, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) in _FULL:
            raise
        raise InputError(f"{path}: cannot be read as audio") from None
    if samples is None:
        raise InputError(f"{path}: holds no audio samples")
    return DecodedAudio(samples, rate_hz, kind, declared_s, bad_packets, False)


def _decode_packets(container: Any, scratch: Path | None) -> tuple[Samples | None, int, int]:
    """Return the samples of the packets, their rate, and how many packets are broken; other kinds of samples are left out."""
    import av

    samples: Samples | None = None
    rate_hz = bad_packets = 0
    packets = container.demux(container.streams.audio[0])
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return samples, rate_hz, bad_packets
        except av.FFmpegError:  # the container itself ends here
            return samples, rate_hz, bad_packets + 1
        try:
            blocks = [(_samples(frame), int(frame.sample_rate)) for frame in packet.decode()]
        except av.FFmpegError:
            bad_packets += 1
            continue
        for block, rate in blocks:
            if samples is None:
                samples, rate_hz = Samples(block.shape[0], scratch=scratch), rate
            if rate == rate_hz and block.shape[0] == samples.channels:
                samples.append(block)


def _samples(frame: Any) -> npt.NDArray[np.float32]:
    """Return the samples of a decoded frame, float32 (channels, samples)."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype.kind == "f":
        return np.asarray(values, np.float32)
    if values.dtype == np.uint8:
        return np.asarray((values.astype(np.float32) - 128) / 128, np.float32)
    return np.asarray(values / -float(np.iinfo(values.dtype).min), np.float32)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what C libraries print on stderr: one damaged MP3 makes libmpg123 write hundreds of lines."""
    with _stderr_lock:
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


_STREAMED = 0xFFFFFFF0
"""Sizes from here on are placeholders of recorders that did not know the length."""
_OGG_END = 4
_OGG_TAIL_BYTES = 1 << 17
"""More than the largest Ogg page, so that the tail contains the last page's header."""


def declared_frames(path: Path, container: str) -> int | None:
    """Return the number of frames that a WAV or AIFF file declares; None for other formats, or where it does not say.

    Args:
        path: The file.
        container: libsndfile's name of its format.
    """
    with path.open("rb") as file:
        try:
            if container in ("WAV", "WAVEX"):
                return _riff_frames(file)
            return _aiff_frames(file) if container == "AIFF" else None
        except struct.error:
            return None


def ends_unmarked(path: Path) -> bool:
    """Whether an Ogg file ends early: its last page does not have the end-of-stream flag (RFC 3533)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _OGG_TAIL_BYTES))
        tail = file.read()
    last = tail.rfind(b"OggS")
    return last >= 0 and not (tail[last + 5 : last + 6] or b"\0")[0] & _OGG_END


def _riff_frames(file: BinaryIO) -> int | None:
    """Walk the chunks of a RIFF file up to `data`; only PCM is counted, since compressed samples have no fixed size."""
    head = file.read(12)
    order = ">" if head[:4] == b"RIFX" else "<"
    block_bytes = None
    while True:
        name, size = struct.unpack(order + "4sI", file.read(8))
        if name == b"fmt ":
            kind, _, _, _, align = struct.unpack(order + "HHIIH", file.read(14))
            block_bytes = align if kind in (1, 3, 0xFFFE) else None
            size -= 14
        if name == b"data":
            return size // block_bytes if block_bytes and 0 < size < _STREAMED else None
        file.seek(size + size % 2, 1)


def _aiff_frames(file: BinaryIO) -> int | None:
    file.seek(12)
    while True:
        name, size = struct.unpack(">4sI", file.read(8))
        if name == b"COMM":
            _, frames = struct.unpack(">HI", file.read(6))
            return int(frames)
        file.seek(size + size % 2, 1)


@dataclasses.dataclass(frozen=True)
class LoadedAudio:
    """The sound of a file, and warnings about the file.

    Attributes:
        wav: Samples in [-1, 1], float32 (channels, samples).
        rate_hz: Their sample rate.
        warnings: One line each, without the file's name: that it is truncated or silent.
    """

    wav: np.ndarray
    rate_hz: int
    warnings: tuple[str, ...]


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """Return the samples and the sample rate of an audio file as `load_audio` does, without its warnings."""
    decoded = _read(path)
    return decoded.wav, decoded.rate_hz


def load_audio(path: Path) -> LoadedAudio:
    """Read an audio file of any kind, judged by its content and not by its name.

    Broken packets inside a compressed file are left out; what can be decoded is returned.

    Raises:
        InputError: If the file is missing, empty, not audio, has an impossible sample rate, or contains no samples or
            samples that are not numbers.
    """
    decoded = _read(path)
    warnings = [f"{kind}: {detail}" for kind, detail in decoding_problems(decoded).items()]
    if not np.any(decoded.wav):
        warnings.append("is silent from end to end")
    return LoadedAudio(decoded.wav, decoded.rate_hz, tuple(warnings))


def resample(wav: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Change the sample rate of (channels, samples) by soxr at its HQ setting; float32, at least one sample of a sound."""
    if from_hz == to_hz:
        return np.asarray(wav, np.float32)
    # Channel by channel: interleaved channels take twice the time, for the copies there and back.
    channels = [soxr.resample(channel, from_hz, to_hz, quality="HQ") for channel in np.asarray(wav, np.float32)]
    out = channels[0][None] if len(channels) == 1 else np.stack(channels)
    return np.pad(out, ((0, 0), (0, 1))) if out.shape[1] == 0 < wav.shape[1] else out


def resample_blocks(
    blocks: Iterable[npt.NDArray[np.float32]], channels: int, from_hz: int, to_hz: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Change the sample rate of the blocks of a sound, (channels, samples) each: together what `resample` makes of it."""
    if from_hz == to_hz:
        yield from blocks
        return
    streams = [soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ") for _ in range(channels)]
    heard = made = 0
    for block in blocks:
        heard += block.shape[1]
        out = np.stack([one.resample_chunk(np.ascontiguousarray(row)) for one, row in zip(streams, block, strict=True)])
        made += out.shape[1]
        yield out
    rest = np.stack([one.resample_chunk(np.zeros(0, np.float32), last=True) for one in streams])
    yield np.pad(rest, ((0, 0), (0, 1))) if made + rest.shape[1] == 0 < heard else rest


def _read(path: Path) -> DecodedAudio:
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not an audio file")
    decoded = decode_audio(path)
    wav = decoded.wav
    if wav.shape[1] == 0:
        raise InputError(f"{path}: holds no audio samples; export it again")
    if wrong := wav.size - int(np.isfinite(wav).sum()):
        raise InputError(f"{path}: holds {wrong} samples that are not numbers (NaN or infinity); export it again")
    return decoded
