"""Audio files: read anything, write the common formats, change the sample rate."""

import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

from riffusion_train.audio.tags import TAGS, add_id3_tags, add_riff_tags
from riffusion_train.audio.truncation import truncation
from riffusion_train.config.errors import InputError

FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
"""Suffixes that `write_audio` knows, with libsndfile's names for what they mean."""

# The sample rates that a format is limited to, with the one that takes the place of all others.
_RATES_HZ = {
    ".opus": ((8000, 12000, 16000, 24000, 48000), 48000),
    ".mp3": ((8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000), 44100),
}
_TAG_WRITERS = {".wav": add_riff_tags, ".mp3": add_id3_tags}
_LOWEST_HZ, _HIGHEST_HZ = 1000, 768_000
_BLOCK_SAMPLES = 1 << 16
_stderr_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class LoadedAudio:
    """The sound of a file, and what a listener should know about the file.

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
    wav, rate_hz = _read(path)
    return wav, rate_hz


def load_audio(path: Path) -> LoadedAudio:
    """Read an audio file of any kind, judged by its content and not by its name.

    Broken packets inside a compressed file are left out; what can be decoded is returned.

    Raises:
        InputError: If the file is missing, empty, not audio, has a sample rate that cannot be, or holds no sample or samples
            that are not numbers.
    """
    wav, rate_hz = _read(path)
    found = [truncation(path, wav.shape[1] / rate_hz), None if np.any(wav) else "is silent from end to end"]
    return LoadedAudio(wav, rate_hz, tuple(warning for warning in found if warning))


def write_audio(path: Path, wav: np.ndarray, rate_hz: int, tags: dict[str, str] | None = None) -> None:
    """Write samples in [-1, 1], (channels, samples), in the format that the suffix names; beyond 1 they are clipped.

    Opus and MP3 know only some sample rates; other rates are resampled. The file appears only when it is whole.

    Args:
        path: Where to write: .wav, .flac, .ogg, .opus or .mp3.
        wav: The samples.
        rate_hz: Their sample rate.
        tags: Texts by name, of `tags.TAGS`: title, artist, comment, copyright, album, genre, date.

    Raises:
        InputError: If the suffix is unknown.
    """
    suffix = path.suffix.lower()
    tags = tags or {}
    if unknown := set(tags) - set(TAGS):
        raise ValueError(f"no audio tag is called {unknown}; choose from: {', '.join(TAGS)}")
    if suffix not in FORMATS:
        raise InputError(f"{path}: cannot write '{suffix}' audio; choose from: {', '.join(FORMATS)}")
    allowed, substitute = _RATES_HZ.get(suffix, ((rate_hz,), rate_hz))
    if rate_hz not in allowed:
        wav, rate_hz = resample(wav, rate_hz, substitute), substitute
    kind, subtype = FORMATS[suffix]
    partial = path.with_name(f".{path.name}.partial")
    frames = np.ascontiguousarray(wav.T.clip(-1, 1), np.float32)
    try:
        with soundfile.SoundFile(partial, "w", rate_hz, frames.shape[1], subtype, format=kind) as file:
            if suffix not in _TAG_WRITERS:
                for name, text in tags.items():
                    setattr(file, name, text)
            # In blocks: libsndfile's Vorbis encoder keeps a whole write on its stack.
            for start in range(0, len(frames), _BLOCK_SAMPLES):
                file.write(frames[start : start + _BLOCK_SAMPLES])
        if tags and suffix in _TAG_WRITERS:
            _TAG_WRITERS[suffix](partial, tags)
        partial.replace(path)
    except soundfile.SoundFileError as error:
        raise InputError(f"{path}: cannot be written: {str(error).rpartition(': ')[2]}") from None
    finally:
        partial.unlink(missing_ok=True)


def resample(wav: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Change the sample rate of (channels, samples) by soxr at its HQ setting; float32, and never nothing of something."""
    if from_hz == to_hz:
        return np.asarray(wav, np.float32)
    frames = np.ascontiguousarray(wav.T, np.float32)
    out = soxr.resample(frames, from_hz, to_hz, quality="HQ").T
    return np.ascontiguousarray(np.pad(out, ((0, 0), (0, int(out.shape[1] == 0 and len(frames) > 0)))))


def _read(path: Path) -> tuple[np.ndarray, int]:
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not an audio file")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty")
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    with _silent_stderr():
        try:
            wav, rate_hz = _read_soundfile(path)
        except (soundfile.SoundFileError, RuntimeError, MemoryError):
            wav, rate_hz = _read_av(path)
    if wav.shape[1] == 0:
        raise InputError(f"{path}: holds no audio samples; export it again")
    if not _LOWEST_HZ <= rate_hz <= _HIGHEST_HZ:
        raise InputError(
            f"{path}: a sample rate of {rate_hz} Hz is outside {_LOWEST_HZ} to {_HIGHEST_HZ} Hz; its header must be wrong"
        )
    if wrong := wav.size - int(np.isfinite(wav).sum()):
        raise InputError(f"{path}: holds {wrong} samples that are not numbers (NaN or infinity); export it again")
    return wav, rate_hz


def _read_soundfile(path: Path) -> tuple[np.ndarray, int]:
    frames, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return np.ascontiguousarray(frames.T), int(rate_hz)


def _read_av(path: Path) -> tuple[np.ndarray, int]:
    """Decode packet by packet, so that a broken one costs itself and not the file."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise InputError(f"{path}: holds no audio")
            stream = container.streams.audio[0]
            blocks = list(_decoded(container, stream))
    except (av.FFmpegError, ValueError, OSError, UnicodeDecodeError):
        raise InputError(f"{path}: cannot be read as audio") from None
    if not blocks:
        raise InputError(f"{path}: holds no audio samples")
    rate_hz, channels = blocks[0][1], blocks[0][0].shape[0]
    # A stream that changes its form half way is kept up to there.
    kept = [block for block, rate in blocks if rate == rate_hz and block.shape[0] == channels]
    return np.concatenate(kept, 1), rate_hz


def _decoded(container: "av.container.InputContainer", stream: "av.AudioStream") -> Iterator[tuple[np.ndarray, int]]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        try:
            for frame in packet.decode():
                yield _samples(frame), int(frame.sample_rate)
        except av.FFmpegError:
            continue


def _samples(frame: "av.AudioFrame") -> np.ndarray:
    """Return the samples of a decoded frame, float32 (channels, samples)."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    return (values / -float(np.iinfo(values.dtype).min)).astype(np.float32)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Send what C libraries print on stderr nowhere: one damaged MP3 makes libmpg123 write hundreds of lines."""
    with _stderr_lock:
        sys.stderr.flush()
        kept = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
