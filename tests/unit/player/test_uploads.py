import io

import av
import numpy as np
import pytest
import soundfile

from riffusion_train.player.security import read_upload
from riffusion_train.runtime.errors import InputError

RATE_HZ = 22050


def tone(rate_hz: int, duration_s: float, channels: int = 2) -> np.ndarray:
    time_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    return np.tile(0.4 * np.sin(2 * np.pi * 440 * time_s), (channels, 1)).astype(np.float32)


def by_soundfile(kind: str, subtype: str | None = None, rate_hz: int = 48000, channels: int = 2) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, tone(rate_hz, 2.0, channels).T, rate_hz, format=kind, subtype=subtype)
    return out.getvalue()


def by_av(kind: str, codec: str) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=48000)
        frame = av.AudioFrame.from_ndarray(tone(48000, 2.0), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        fifo = av.AudioFifo()
        fifo.write(frame)
        resampler = av.AudioResampler(stream.format, "stereo", 48000, frame_size=stream.frame_size or 960)
        for part in [*resampler.resample(fifo.read(0, partial=True)), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "tolerance_s"),
    [
        (by_soundfile("WAV"), 0.001),
        (by_soundfile("RF64"), 0.001),
        (by_soundfile("AIFF"), 0.001),
        (by_soundfile("FLAC"), 0.001),
        (by_soundfile("OGG", "VORBIS"), 0.001),
        (by_soundfile("OGG", "OPUS"), 0.001),
        (by_soundfile("MP3"), 0.1),
        (by_soundfile("WAV", channels=7), 0.001),
        (by_soundfile("WAV", rate_hz=8000, channels=255), 0.001),
        (by_soundfile("WAV", rate_hz=8000, channels=1), 0.001),
        (by_av("ipod", "aac"), 0.1),
        (by_av("webm", "libopus"), 0.1),
        (by_av("adts", "aac"), 0.1),
    ],
    ids=[
        "wav",
        "rf64",
        "aiff",
        "flac",
        "vorbis",
        "opus",
        "mp3",
        "7-channels",
        "255-channels",
        "low-rate",
        "m4a",
        "webm",
        "aac",
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_common_format_is_read(data: bytes, tolerance_s: float, channels: int):
    wav = read_upload(data, RATE_HZ, channels, 60.0)
    assert wav.shape[0] == channels and wav.dtype == np.float32
    assert wav.shape[1] / RATE_HZ == pytest.approx(2.0, abs=tolerance_s)
    middle = wav[0, RATE_HZ // 2 : RATE_HZ * 3 // 2]
    loudest_hz = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax()
    assert loudest_hz == pytest.approx(440, abs=2)


@pytest.mark.parametrize("data", [by_soundfile("WAV"), by_av("ipod", "aac")], ids=["wav", "m4a"])
def test_no_more_is_read_than_is_asked_for(data: bytes):
    assert read_upload(data, RATE_HZ, 1, 0.5).shape[1] / RATE_HZ == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"#EXTM3U\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<?xml version='1.0'?><MPD></MPD>",
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        b"\0\0\0\x18ftypM4A " + bytes(100),
        by_soundfile("WAV")[:40],
        by_av("webm", "libopus")[:200],
        by_soundfile("WAV")[:44] + bytes(1000),
    ],
    ids=["empty", "byte", "playlist", "concat", "dash", "png", "mov-head", "wav-head", "webm-head", "silence"],
)
def test_anything_else_is_refused_in_one_line(data: bytes):
    with pytest.raises(InputError, match=r"^file: ") as error:
        read_upload(data, RATE_HZ, 1, 60.0)
    assert "\n" not in str(error.value)
