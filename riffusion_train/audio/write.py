"""Audio files out: WAV, FLAC, Ogg Vorbis, Opus and MP3, in blocks, with tags of any length and in any script.

libsndfile writes the tags of FLAC, Ogg Vorbis and Opus correctly. In WAV it drops texts beyond 2 kB, and in MP3 it writes
UTF-8 marked as Latin-1, so those two are written here. Mutagen does not support the INFO list of WAV files, and drops dates in
MP3 files that are not timestamps.
"""

import contextlib
import struct
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile
import soxr

from riffusion_train.audio.marking import Mark, add_id3_frames, id3_frame, mark_sound
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import written_beside

# --- samples ---------------------------------------------------------------------------------------------------------

FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
"""Suffixes that `write_audio` supports, with libsndfile's names of container and coding."""

# The sample rates that a format is limited to, and the one to which others are resampled.
_RATES_HZ = {
    ".opus": ((8000, 12000, 16000, 24000, 48000), 48000),
    ".mp3": ((8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000), 44100),
}
_BLOCK_SAMPLES = 1 << 16


def write_audio(
    path: Path,
    wav: np.ndarray,
    rate_hz: int,
    tags: dict[str, str] | None = None,
    compression: float | None = None,
    mark: Mark | None = None,
) -> None:
    """Write samples in [-1, 1], (channels, samples), in the format that the suffix names; beyond 1 they are clipped.

    Opus and MP3 support only some sample rates; others are resampled. The file appears only when it is complete.

    Args:
        path: Where to write: .wav, .flac, .ogg, .opus or .mp3.
        wav: The samples.
        rate_hz: Their sample rate.
        tags: Texts by name, of `tags.TAGS`: title, artist, comment, copyright, album, genre, date.
        compression: From 0, the largest and best file of a format, to 1, the smallest; None is the format's default.
        mark: The model that made the sound, if one did.

    Raises:
        InputError: If the suffix is unknown.
    """
    with AudioWriter(path, rate_hz, wav.shape[0], tags, compression, mark) as writer:
        writer.write(wav)


def encode_audio(wav: np.ndarray, rate_hz: int, audio_format: str, mark: Mark | None = None) -> bytes:
    """Return samples in [-1, 1], (channels, samples), as a file; the format is a suffix of `FORMATS` without the dot."""
    with tempfile.TemporaryDirectory(prefix="riffusion-") as folder:
        path = Path(folder, f"clip.{audio_format}")
        write_audio(path, wav, rate_hz, mark=mark)
        return path.read_bytes()


class AudioWriter:
    """Writes an audio file block by block; use as a context manager. Arguments and errors as of `write_audio`."""

    def __init__(
        self,
        path: Path,
        rate_hz: int,
        channels: int,
        tags: dict[str, str] | None = None,
        compression: float | None = None,
        mark: Mark | None = None,
    ) -> None:
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
        self._compression = compression
        self._mark = mark
        self._stack = contextlib.ExitStack()
        self._partial: Path | None = None
        self._file: soundfile.SoundFile | None = None

    def __enter__(self) -> Self:
        kind, subtype = FORMATS[self._suffix]
        with contextlib.ExitStack() as stack:
            self._partial = stack.enter_context(written_beside(self._path))
            try:
                self._file = soundfile.SoundFile(
                    *(self._partial, "w", self._rate_hz, self._channels, subtype),
                    format=kind,
                    compression_level=self._compression,
                )
            except soundfile.SoundFileError as error:
                raise self._unwritable(error) from None
            if self._suffix not in _TAG_WRITERS:
                for name, text in self._tags.items():
                    setattr(self._file, name, text)
            self._stack = stack.pop_all()
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
        assert self._file is not None and self._partial is not None
        if kind is not None:
            with contextlib.suppress(soundfile.SoundFileError):  # what ended the block is the error to report
                self._file.close()
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            try:
                if self._resampler is not None:
                    self._put(self._resampler.resample_chunk(np.zeros((0, self._channels), np.float32), last=True))
                self._file.close()
            except soundfile.SoundFileError as fault:
                raise self._unwritable(fault) from None
            if self._mark is not None:
                mark_sound(self._partial, self._suffix, self._mark)
            if self._tags and self._suffix in _TAG_WRITERS:
                _TAG_WRITERS[self._suffix](self._partial, self._tags)

    def _put(self, frames: np.ndarray) -> None:
        assert self._file is not None
        try:
            self._file.write(frames.reshape(-1, self._channels).clip(-1, 1))
        except soundfile.SoundFileError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: Exception) -> InputError:
        return InputError(f"{self._path}: cannot be written: {str(error).rpartition(': ')[2]}")


# --- tags ------------------------------------------------------------------------------------------------------------

# Name of each tag in ID3v2.4 (https://id3.org/id3v2.4.0-frames) and in the INFO list of RIFF files.
_FRAMES = {
    "title": ("TIT2", "INAM"),
    "artist": ("TPE1", "IART"),
    "comment": ("COMM", "ICMT"),
    "copyright": ("TCOP", "ICOP"),
    "album": ("TALB", "IPRD"),
    "genre": ("TCON", "IGNR"),
    "date": ("TDRC", "ICRD"),
}
TAGS = tuple(_FRAMES)
"""The tags that every format can carry."""

_UTF_8 = b"\x03"


def _add_id3_tags(path: Path, tags: dict[str, str]) -> None:
    """Put an ID3v2.4 tag in front of an MP3 file."""
    frames = b""
    for name, text in tags.items():
        body = _UTF_8 + (b"eng\0" if name == "comment" else b"") + text.encode()
        frames += id3_frame(_FRAMES[name][0].encode(), body)
    add_id3_frames(path, frames)


def _add_riff_tags(path: Path, tags: dict[str, str]) -> None:
    """Put an INFO list at the end of a WAV file."""
    body = b"INFO"
    for name, text in tags.items():
        value = text.encode() + b"\0"
        body += _FRAMES[name][1].encode() + struct.pack("<I", len(value)) + value + b"\0" * (len(value) % 2)
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        file.write(b"\0" * (end % 2) + b"LIST" + struct.pack("<I", len(body)) + body)
        total = file.tell()
        file.seek(4)
        file.write(struct.pack("<I", total - 8))


_TAG_WRITERS = {".wav": _add_riff_tags, ".mp3": _add_id3_tags}


def read_tags(path: Path) -> dict[str, str]:
    """Return the tags of an audio file by name, of `TAGS`.

    Raises:
        InputError: If the file cannot be read.
    """
    import av  # reading alone needs it

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            metadata = dict(container.metadata)
            for stream in container.streams.audio:  # where Ogg has its tags
                metadata |= stream.metadata
    except (av.FFmpegError, ValueError, OSError):
        raise InputError(f"{path}: cannot be read as audio") from None
    lowered = {name.lower(): text for name, text in metadata.items()}
    return {name: lowered[name] for name in TAGS if name in lowered}
