"""One audio file to samples, with what its container promised: so that a truncated or lying file is known for what it is.

Soundfile decodes what it can, PyAV the rest, packet by packet. The content decides, never the name. Of what soundfile knows,
FFmpeg decodes Ogg Vorbis, since it does so in three quarters of the time; whatever is odd about such a file, soundfile decides.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from riffusion_train.audio.containers import declared_frames, ends_unmarked
from riffusion_train.runtime.errors import InputError

COMPLETE_SHARE = 0.95
"""A file whose decoded length is below this share of the declared one is truncated: codecs' paddings are far smaller."""
_COUNTED_TOLERANCE_S = 0.1
_SAME_ORDER = 2
"""Up to so many channels FFmpeg and libvorbis have them in one order."""

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
"""Suffixes that fit a container; of containers that are not listed, any name is believed."""
_stderr_lock = threading.Lock()


class Decoded(NamedTuple):
    """The samples of a file, and how far they can be trusted."""

    wav: npt.NDArray[np.float32]
    """Shape (channels, samples), in [-1, 1]; may hold no sample, or samples that are not numbers."""
    rate_hz: int
    container: str
    """The container that was found, in libsndfile's or FFmpeg's words."""
    declared_s: float | None
    """Seconds that the container promises; None where it does not say."""
    bad_packets: int
    """Packets that could not be decoded and are left out."""
    unmarked_end: bool
    """Whether a format that marks its end (Ogg) ends without the mark."""
    counted: bool = False
    """Whether `declared_s` counts samples; containers of compressed sound often only estimate it."""

    @property
    def duration_s(self) -> float:
        """Seconds that were decoded."""
        return self.wav.shape[1] / self.rate_hz


def decode(path: Path) -> Decoded:
    """Decode an audio file of any kind.

    Raises:
        InputError: If it is missing, empty, or nothing in it can be read as audio.
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
            return _decode_soundfile(path)
        except (soundfile.SoundFileError, RuntimeError, MemoryError):
            return _decode_av(path)


def doubts(decoded: Decoded) -> dict[str, str]:
    """Return what speaks against a decoded file, by a few words each: truncated, damaged, longer than declared."""
    found = {}
    declared_s, duration_s = decoded.declared_s, decoded.duration_s
    least = COMPLETE_SHARE if declared_s is None or not decoded.counted else 1 - _COUNTED_TOLERANCE_S / declared_s
    if declared_s is not None and duration_s < least * declared_s:
        found["truncated"] = f"{duration_s:.2f} s could be decoded of the {declared_s:.2f} s its container declares"
    elif decoded.unmarked_end:
        found["truncated"] = f"it breaks off at {duration_s:.1f} s, without the mark that ends such a file"
    elif declared_s is not None and declared_s < COMPLETE_SHARE * duration_s:
        found["longer than declared"] = f"{duration_s:.1f} s were decoded, its container declares {declared_s:.1f} s"
    if decoded.bad_packets:
        plural = "" if decoded.bad_packets == 1 else "s"
        found["damaged"] = f"{decoded.bad_packets} packet{plural} could not be decoded and are left out"
    return found


def misnamed(name: str, container: str) -> str | None:
    """Return what is wrong with a file's name, given the container that was found in it; None where it fits."""
    suffix, suffixes = Path(name).suffix, _KINDS.get(container)
    if not suffixes or suffix.lower() in suffixes:
        return None
    return f"named {suffix or 'without a suffix'}, holds {container.split(',')[0]}"


def _decode_soundfile(path: Path) -> Decoded:
    import soundfile

    with soundfile.SoundFile(path) as file:
        container, rate_hz = str(file.format), int(file.samplerate)
        frames = declared_frames(path, container)
        if frames is None and container in ("FLAC", "MP3"):  # for the others libsndfile tells what is there
            frames = file.frames
        quickly = _vorbis(path, file.frames, file.channels) if file.subtype == "VORBIS" else None
        wav = _planar(file) if quickly is None else quickly
    unmarked = container == "OGG" and ends_unmarked(path)
    declared_s = frames / rate_hz if frames else None
    counted = container != "MP3"
    return Decoded(wav, rate_hz, container, declared_s, 0, unmarked, counted)


def _vorbis(path: Path, frames: int, channels: int) -> npt.NDArray[np.float32] | None:
    """Decode a whole Ogg Vorbis file by FFmpeg, equal to libvorbis within 1e-6, (channels, frames).

    None where a packet is broken, where it is not as long as libsndfile says, or has more than two channels, whose order is
    another one.
    """
    import av

    if channels > _SAME_ORDER:
        return None
    wav = np.empty((channels, frames), np.float32)
    rows, end = list(wav), 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(audio=0):  # a frame has some hundred samples: what is done here counts
                samples, planes = frame.samples, frame.planes
                start, end = end, end + samples
                if end > frames or len(planes) != channels:
                    return None
                for row, plane in zip(rows, planes, strict=True):
                    row[start:end] = np.frombuffer(plane, np.float32, samples)
    except (av.FFmpegError, ValueError, OSError):
        return None
    return wav if end == frames else None


def _planar(file: Any) -> npt.NDArray[np.float32]:
    """Read all of an open `soundfile.SoundFile`, float32 (channels, samples)."""
    if file.subtype != "PCM_16" or file.format == "FLAC":
        return np.ascontiguousarray(file.read(dtype="float32", always_2d=True).T)
    # The same values as libsndfile's own conversion gives, in a third of the time; its FLAC decoder converts as quickly.
    whole = file.read(dtype="int16", always_2d=True)
    wav = np.empty(whole.shape[::-1], np.float32)
    for channel, samples in zip(wav, whole.T, strict=True):
        np.multiply(samples, np.float32(1 / 32768), out=channel)
    return wav


def _decode_av(path: Path) -> Decoded:
    """Decode packet by packet, so that a broken one costs itself and not the file."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise InputError(f"{path}: holds no audio")
            declared_s = container.duration / av.time_base if container.duration else None
            kind = str(container.format.name)
            blocks, bad_packets = _decoded_blocks(container)
    except (av.FFmpegError, ValueError, OSError, UnicodeDecodeError):
        raise InputError(f"{path}: cannot be read as audio") from None
    if not blocks:
        raise InputError(f"{path}: holds no audio samples")
    rate_hz, channels = blocks[0][1], blocks[0][0].shape[0]
    # A stream that changes its form half way is kept up to there.
    kept = [block for block, rate in blocks if rate == rate_hz and block.shape[0] == channels]
    return Decoded(np.concatenate(kept, 1), rate_hz, kind, declared_s, bad_packets, False)


def _decoded_blocks(container: Any) -> tuple[list[tuple[npt.NDArray[np.float32], int]], int]:
    import av

    blocks: list[tuple[npt.NDArray[np.float32], int]] = []
    bad_packets = 0
    packets = container.demux(container.streams.audio[0])
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return blocks, bad_packets
        except av.FFmpegError:  # the container itself ends here
            return blocks, bad_packets + 1
        try:
            blocks += [(_samples(frame), int(frame.sample_rate)) for frame in packet.decode()]
        except av.FFmpegError:
            bad_packets += 1


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
    """Send what C libraries print on stderr nowhere: one damaged MP3 makes libmpg123 write hundreds of lines."""
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
