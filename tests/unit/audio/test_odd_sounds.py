"""Audio files that are cut short, silent, of odd rates or of other channels than the codec."""

import dataclasses
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.sounds import noise, tone

from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.mel import clipping_warnings, sound_warnings
from riffusion_train.audio.read import load_audio
from riffusion_train.audio.write import write_audio
from riffusion_train.config.spectrogram import Channels, load_preset
from riffusion_train.runtime.errors import InputError

V1 = load_preset("riffusion_v1")
STEREO = dataclasses.replace(V1, channels=Channels.stereo)


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def song(tmp_path: Path, suffix: str, tags: dict[str, str] | None = None) -> Path:
    path = tmp_path / f"song{suffix}"
    write_audio(path, noise(4.0, 44100), 44100, tags)
    return path


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_cut_short_is_read_with_a_warning_of_both_durations(tmp_path: Path, suffix: str, share: float):
    loaded = load_audio(cut(song(tmp_path, suffix), share))
    decoded_s = loaded.wav.shape[1] / loaded.rate_hz
    assert share * 4 - 0.3 < decoded_s < share * 4 + 0.1
    assert loaded.warnings[0] == f"truncated: {decoded_s:.2f} s could be decoded of the 4.00 s its container declares"


@pytest.mark.parametrize("suffix", [".ogg", ".opus"])
def test_an_ogg_file_without_its_last_page_is_warned_of(tmp_path: Path, suffix: str):
    (warning,) = load_audio(cut(song(tmp_path, suffix), 0.6)).warnings
    assert "truncated: it breaks off" in warning


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
@pytest.mark.parametrize("tags", [None, {"title": "a long title " * 300}])
def test_a_whole_file_is_read_without_a_warning(tmp_path: Path, suffix: str, tags: dict[str, str] | None):
    assert load_audio(song(tmp_path, suffix, tags)).warnings == ()


def test_a_streamed_wav_whose_header_does_not_know_its_size_is_whole(tmp_path: Path):
    path = song(tmp_path, ".wav")
    data = bytearray(path.read_bytes())
    place = data.find(b"data") + 4
    for size in (0xFFFFFFFF, 0):
        data[place : place + 4] = struct.pack("<I", size)
        path.write_bytes(bytes(data))
        try:
            assert load_audio(path).warnings == ()
        except InputError as error:
            assert "no audio samples" in str(error)


def test_silence_is_warned_of(tmp_path: Path):
    write_audio(tmp_path / "a.wav", np.zeros((1, 44100), np.float32), 44100)
    assert load_audio(tmp_path / "a.wav").warnings == ("is silent from end to end",)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_samples_that_are_not_numbers_are_counted(tmp_path: Path, wrong: float):
    wav = np.zeros(100, np.float32)
    wav[[3, 50]] = wrong
    soundfile.write(tmp_path / "a.wav", wav, 44100, subtype="FLOAT")
    with pytest.raises(InputError, match=r"a\.wav: holds 2 samples that are not numbers .* export it again"):
        load_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("rate_hz", [1, 999, 2_000_000])
def test_a_rate_that_cannot_be_is_refused(tmp_path: Path, rate_hz: int):
    soundfile.write(tmp_path / "a.wav", np.full(100, 0.1, np.float32), rate_hz)
    with pytest.raises(InputError, match=f"a sample rate of {rate_hz} Hz is outside 1000 to 768000 Hz"):
        load_audio(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("wav", "rate_hz", "config", "part"),
    [
        (tone(440, 0.05, 44100), 44100, V1, "lasts 0.050 s, less than one window (0.100 s)"),
        (tone(440, 1.0, 8000), 8000, V1, "at 8000 Hz holds nothing above 4 kHz; the image goes to 10 kHz"),
        (noise(1.0, 44100).repeat(6, 0), 44100, STEREO, "has 6 channels, of which the first two are kept"),
        (np.concatenate([tone(440, 1.0, 44100), -tone(440, 1.0, 44100)]), 44100, V1, "cancel each other"),
        (tone(440, 1.0, 44100, amplitude=2.0), 44100, V1, "peaks of 2.00, beyond full scale"),
    ],
)
def test_what_the_codec_will_not_keep_is_said(wav: np.ndarray, rate_hz: int, config, part: str):
    (warning,) = sound_warnings(wav, rate_hz, config)
    assert part in warning


@pytest.mark.parametrize("rate_hz", [22050, 44100, 48000, 192000])
def test_an_ordinary_sound_gives_no_warning(rate_hz: int):
    wide = np.concatenate([noise(1.0, rate_hz, seed=1), noise(1.0, rate_hz, seed=2)])
    for config in (V1, STEREO):
        assert sound_warnings(wide, rate_hz, config) == []
        assert sound_warnings(wide[:1], rate_hz, config) == []


@pytest.mark.parametrize("preset", ["hifi", "hifi_stereo"])
def test_what_is_louder_than_black_is_said(preset: str):
    codec = make_codec(load_preset(preset))
    quiet, loud = (tone(440, 1.0, 44100, amplitude=level) for level in (0.1, 1.0))
    for wav, is_cut in ((quiet, False), (loud, True)):
        found = clipping_warnings([codec.encode_long(wav).image], codec.config)
        assert bool(found) is is_cut
    assert found == [
        f"99 of 101 columns reach black, the loudest that '{preset}' draws; turn the sound down to keep them"
    ]
    v1 = make_codec(V1)
    assert clipping_warnings([v1.encode_long(loud).image], V1) == []
