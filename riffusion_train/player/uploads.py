"""Sounds from listeners: judged by their first bytes, read by named readers only, and no further than is needed."""

import io

import numpy as np
import soundfile

from riffusion_train.audio.io.read import resample
from riffusion_train.runtime.errors import InputError

_KINDS = "WAV, FLAC, MP3, Ogg, Opus, AIFF, M4A, WebM or AAC"
_MOST_SAMPLES = 1 << 25
"""Of all channels together: a small file of silence can hold hours of many channels."""


def read_upload(data: bytes, rate_hz: int, channels: int, most_s: float) -> np.ndarray:
    """Return the first seconds of a sound, float32 (channels, samples).

    No reader is chosen by the name, and none that could open another file: playlists are refused.

    Args:
        data: The file.
        rate_hz: The sample rate wanted.
        channels: One or two.
        most_s: Seconds that are read.

    Raises:
        InputError: If it is no sound, or silent.
    """
    kind = _kind(data)
    if kind is None:
        raise InputError(f"file: is no sound that can be read; give {_KINDS}")
    try:
        wav, from_hz = _by_soundfile(data, most_s) if kind == "soundfile" else _by_av(data, kind, most_s)
    except (soundfile.SoundFileError, RuntimeError, MemoryError, ValueError, OSError) as error:
        raise InputError(f"file: is damaged or no sound ({type(error).__name__}); give {_KINDS}") from None
    if wav.size == 0 or not np.isfinite(wav).all() or not np.any(wav):
        raise InputError("file: holds no sound; give one that is not silent")
    if not 1000 <= from_hz <= 768_000:
        raise InputError(f"file: a sample rate of {from_hz} Hz cannot be right; export it again")
    wav = resample(wav, from_hz, rate_hz)
    if channels == 1:
        return wav.mean(axis=0, keepdims=True)
    return np.repeat(wav, 2, axis=0) if len(wav) == 1 else wav[:2]


def _kind(data: bytes) -> str | None:
    """Return who reads a file: `soundfile`, or the name of one of FFmpeg's readers; None for what is refused."""
    head = data[:12]
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"FORM") or head[:3] == b"ID3":
        return "soundfile"
    if head[4:8] == b"ftyp":
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    return "soundfile" if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 else None


def _by_soundfile(data: bytes, most_s: float) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        most = min(int(most_s * file.samplerate), _MOST_SAMPLES // max(file.channels, 1))
        frames = file.read(most, dtype="float32", always_2d=True)
        return np.ascontiguousarray(frames[:, :2].T), int(file.samplerate)


def _by_av(data: bytes, kind: str, most_s: float) -> tuple[np.ndarray, int]:
    import av

    blocks: list[np.ndarray] = []
    with av.open(io.BytesIO(data), format=kind) as container:
        if not container.streams.audio:
            raise ValueError("holds no audio")
        resampler = av.AudioResampler("fltp", "stereo", 44100)
        samples = 0
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                blocks.append(part.to_ndarray())
                samples += part.samples
            if samples >= most_s * 44100:
                break
    if not blocks:
        raise ValueError("holds no audio samples")
    return np.concatenate(blocks, axis=1)[:, : int(most_s * 44100)], 44100
