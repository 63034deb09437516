"""Audio files: read anything, write the common formats, change the sample rate."""

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile
import soxr

from riffusion_train.audio.reading import Decoded, decode, doubts
from riffusion_train.audio.tags import TAGS, add_id3_tags, add_riff_tags
from riffusion_train.runtime.errors import InputError

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
    decoded = _read(path)
    return decoded.wav, decoded.rate_hz


def load_audio(path: Path) -> LoadedAudio:
    """Read an audio file of any kind, judged by its content and not by its name.

    Broken packets inside a compressed file are left out; what can be decoded is returned.

    Raises:
        InputError: If the file is missing, empty, not audio, has a sample rate that cannot be, or holds no sample or samples
            that are not numbers.
    """
    decoded = _read(path)
    warnings = [f"{kind}: {detail}" for kind, detail in doubts(decoded).items()]
    if not np.any(decoded.wav):
        warnings.append("is silent from end to end")
    return LoadedAudio(decoded.wav, decoded.rate_hz, tuple(warnings))


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
    with AudioWriter(path, rate_hz, wav.shape[0], tags) as writer:
        writer.write(wav)


class AudioWriter:
    """Writes an audio file block by block; use as a context manager. Arguments and errors as of `write_audio`."""

    def __init__(self, path: Path, rate_hz: int, channels: int, tags: dict[str, str] | None = None) -> None:
        suffix = path.suffix.lower()
        self._tags = tags or {}
        if unknown := set(self._tags) - set(TAGS):
            raise ValueError(f"no audio tag is called {unknown}; choose from: {', '.join(TAGS)}")
        if suffix not in FORMATS:
            raise InputError(f"{path}: cannot write '{suffix}' audio; choose from: {', '.join(FORMATS)}")
        allowed, substitute = _RATES_HZ.get(suffix, ((rate_hz,), rate_hz))
        self._rate_hz = rate_hz if rate_hz in allowed else substitute
        self._resampler = None
        if self._rate_hz != rate_hz:
            self._resampler = soxr.ResampleStream(rate_hz, self._rate_hz, channels, dtype="float32", quality="HQ")
        self._path, self._suffix, self._channels = path, suffix, channels
        self._partial = path.with_name(f".{path.name}.partial")
        self._file: soundfile.SoundFile | None = None

    def __enter__(self) -> Self:
        kind, subtype = FORMATS[self._suffix]
        try:
            self._file = soundfile.SoundFile(self._partial, "w", self._rate_hz, self._channels, subtype, format=kind)
        except soundfile.SoundFileError as error:
            self._partial.unlink(missing_ok=True)
            raise self._unwritable(error) from None
        if self._suffix not in _TAG_WRITERS:
            for name, text in self._tags.items():
                setattr(self._file, name, text)
        return self

    def write(self, wav: np.ndarray) -> None:
        """Take the next samples, (channels, samples)."""
        # In blocks: libsndfile's Vorbis encoder keeps a whole write on its stack.
        for start in range(0, wav.shape[1], _BLOCK_SAMPLES):
            frames = np.ascontiguousarray(wav[:, start : start + _BLOCK_SAMPLES].T, np.float32)
            self._put(frames if self._resampler is None else self._resampler.resample_chunk(frames))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        try:
            if kind is None and self._resampler is not None:
                self._put(self._resampler.resample_chunk(np.zeros((0, self._channels), np.float32), last=True))
            self._file.close()
            if kind is None:
                if self._tags and self._suffix in _TAG_WRITERS:
                    _TAG_WRITERS[self._suffix](self._partial, self._tags)
                self._partial.replace(self._path)
        except soundfile.SoundFileError as fault:
            raise self._unwritable(fault) from None
        finally:
            self._partial.unlink(missing_ok=True)

    def _put(self, frames: np.ndarray) -> None:
        assert self._file is not None
        try:
            self._file.write(frames.reshape(-1, self._channels).clip(-1, 1))
        except soundfile.SoundFileError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: Exception) -> InputError:
        return InputError(f"{self._path}: cannot be written: {str(error).rpartition(': ')[2]}")


def resample(wav: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Change the sample rate of (channels, samples) by soxr at its HQ setting; float32, and never nothing of something."""
    if from_hz == to_hz:
        return np.asarray(wav, np.float32)
    # Channel by channel: frames of channels side by side take twice the time, for the copies there and back.
    channels = [soxr.resample(channel, from_hz, to_hz, quality="HQ") for channel in np.asarray(wav, np.float32)]
    out = channels[0][None] if len(channels) == 1 else np.stack(channels)
    return np.pad(out, ((0, 0), (0, 1))) if out.shape[1] == 0 < wav.shape[1] else out


def _read(path: Path) -> Decoded:
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not an audio file")
    decoded = decode(path)
    wav, rate_hz = decoded.wav, decoded.rate_hz
    if wav.shape[1] == 0:
        raise InputError(f"{path}: holds no audio samples; export it again")
    if not _LOWEST_HZ <= rate_hz <= _HIGHEST_HZ:
        raise InputError(
            f"{path}: a sample rate of {rate_hz} Hz is outside {_LOWEST_HZ} to {_HIGHEST_HZ} Hz; its header must be wrong"
        )
    if wrong := wav.size - int(np.isfinite(wav).sum()):
        raise InputError(f"{path}: holds {wrong} samples that are not numbers (NaN or infinity); export it again")
    return decoded
