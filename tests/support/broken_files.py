"""Audio files of every kind, whole and broken, each made by the libraries that write it."""

import struct
from pathlib import Path

import numpy as np
import soundfile
from support.corpus_files import RATE_HZ, chord, write_audio

DURATION_S = 5.0
AV_FORMATS = {
    "alac.m4a": ("alac", "s16p"),
    "aac.aac": ("aac", "fltp"),
    "wma.wma": ("wmav2", "fltp"),
    "opus.webm": ("libopus", "flt"),
    "aac.mka": ("aac", "fltp"),
    "mp2.mp2": ("mp2", "s16"),
    "wavpack.wv": ("wavpack", "fltp"),
    "tta.tta": ("tta", "s16"),
    "ac3.ac3": ("ac3", "fltp"),
}
SOUNDFILE_FORMATS = ("wav.wav", "flac.flac", "vorbis.ogg", "opus.opus", "mp3.mp3", "aiff.aiff", "aac.m4a")


def write_format(folder: Path, name: str) -> Path:
    """Write a chord of `DURATION_S` in the format that the name says."""
    path = folder / name
    if name in AV_FORMATS:
        _write_av(path, *AV_FORMATS[name])
        return path
    rate_hz = 48000 if name.endswith(".opus") else RATE_HZ
    return write_audio(path, chord(220, DURATION_S, rate_hz), rate_hz)


def write_half(folder: Path, name: str) -> Path:
    """Write the first half of the bytes of a file."""
    whole = write_format(folder, name)
    path = whole.with_name(f"half-{name}")
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return path


def write_rotten_mp3(folder: Path) -> Path:
    """Write an MP3 whose middle has flipped bytes."""
    path = write_format(folder, "rotten.mp3")
    content = bytearray(path.read_bytes())
    random = np.random.default_rng(0)
    for position in random.integers(len(content) // 3, 2 * len(content) // 3, 40):
        content[position] = random.integers(256)
    path.write_bytes(content)
    return path


def write_lying_flac(folder: Path, declared_s: int) -> Path:
    """Write a FLAC whose head declares another length than it has."""
    path = write_format(folder, "lying.flac")
    content = bytearray(path.read_bytes())
    packed = int.from_bytes(content[18:26], "big")
    content[18:26] = (packed >> 36 << 36 | RATE_HZ * declared_s).to_bytes(8, "big")
    path.write_bytes(content)
    return path


def write_streamed_wav(folder: Path) -> Path:
    """Write a WAV as recorders do that do not know its length beforehand."""
    path = write_format(folder, "streamed.wav")
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    return path


def write_renamed(folder: Path, name: str, new_name: str) -> Path:
    """Write a file under a name that lies about its format."""
    return write_format(folder, name).rename(folder / new_name)


def write_bytes(folder: Path, name: str, content: bytes) -> Path:
    """Write any bytes."""
    path = folder / name
    path.write_bytes(content)
    return path


def write_header_only_wav(folder: Path) -> Path:
    """Write a WAV that ends after its head."""
    path = write_format(folder, "header.wav")
    path.write_bytes(path.read_bytes()[:44])
    return path


def write_nan_wav(folder: Path) -> Path:
    """Write a float WAV of which one sample is not a number."""
    wav = chord(220, DURATION_S).T
    wav[1000] = np.nan
    soundfile.write(folder / "nan.wav", wav, RATE_HZ, subtype="FLOAT")
    return folder / "nan.wav"


def _write_av(path: Path, codec: str, sample_format: str) -> None:
    import av

    rate_hz = 48000 if codec == "libopus" else RATE_HZ
    resampler = av.AudioResampler(format=sample_format, layout="stereo", rate=rate_hz)
    wav = np.ascontiguousarray(chord(220, DURATION_S, rate_hz))
    with av.open(str(path), "w", format="matroska" if path.suffix == ".mka" else None) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="stereo")
        stream.format = sample_format
        stream.bit_rate = 128000  # WMA does not open without one
        frame = av.AudioFrame.from_ndarray(wav, format="fltp", layout="stereo")
        frame.sample_rate = rate_hz
        frames = [*resampler.resample(frame), *resampler.resample(None)]
        for packet in [packet for one in [*frames, None] for packet in stream.encode(one)]:
            container.mux(packet)
