import numpy as np
import pytest
import soundfile
from support import broken_files as broken
from support.corpus_files import RATE_HZ, chord

from riffusion_train.audio.read import (
    DecodedAudio,
    Samples,
    declared_frames,
    decode_audio,
    decoding_problems,
    misnamed,
    read_audio,
)
from riffusion_train.runtime.errors import InputError


@pytest.mark.parametrize("name", [*broken.SOUNDFILE_FORMATS, *broken.AV_FORMATS])
def test_every_format_is_decoded_whole_and_raises_no_doubt(tmp_path, name):
    path = broken.write_format(tmp_path, name)
    decoded = decode_audio(path)
    assert decoded.duration_s == pytest.approx(broken.DURATION_S, abs=0.06)  # AAC, MP2 and WMA have paddings
    assert decoded.wav.shape[0] == 2 and decoded.wav.dtype == np.float32
    assert 0.1 < np.abs(decoded.wav).max() < 0.6
    assert decoding_problems(decoded) == {} and misnamed(name, decoded.container) is None
    wav, rate_hz = read_audio(path)
    np.testing.assert_array_equal(decoded.wav, wav)
    assert decoded.rate_hz == rate_hz


@pytest.mark.parametrize("name", ["mp3.mp3", "flac.flac", "wav.wav", "aiff.aiff", "vorbis.ogg", "opus.opus", "aac.mka"])
def test_half_a_file_gives_what_is_there_and_is_known_as_truncated(tmp_path, name):
    path = broken.write_half(tmp_path, name)
    decoded = decode_audio(path)
    assert 1 < decoded.duration_s < 3
    assert set(decoding_problems(decoded)) - {"damaged"} == {"truncated"}


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_vorbis_is_decoded_as_libvorbis_decodes_it(tmp_path, channels):
    path = tmp_path / "a.ogg"
    noise = 0.1 * np.random.default_rng(0).standard_normal((3 * 44100 + 77, channels))
    soundfile.write(path, noise, 44100, format="OGG", subtype="VORBIS")
    np.testing.assert_allclose(decode_audio(path).wav, soundfile.read(path, always_2d=True)[0].T, atol=1e-6)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_damaged_vorbis_gives_what_libvorbis_makes_of_it(tmp_path, place):
    path = tmp_path / "a.ogg"
    noise = 0.1 * np.random.default_rng(0).standard_normal((3 * 44100, 2))
    soundfile.write(path, noise, 44100, format="OGG", subtype="VORBIS")
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start : start + 200] = bytes(200)
    path.write_bytes(content)
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    assert len(expected) < 3 * 44100
    np.testing.assert_allclose(decode_audio(path).wav, expected.T, atol=1e-6)


BROKEN = {
    "rotten mp3": (broken.write_rotten_mp3, {}),
    "lying flac": (lambda folder: broken.write_lying_flac(folder, 60), {"truncated"}),
    "streamed wav": (broken.write_streamed_wav, set()),
    "flac named mp3": (lambda folder: broken.write_renamed(folder, "flac.flac", "x.mp3"), {"named .mp3, holds FLAC"}),
    "m4a named wav": (lambda folder: broken.write_renamed(folder, "aac.m4a", "x.wav"), {"named .wav, holds mov"}),
}


@pytest.mark.parametrize("row", BROKEN)
def test_odd_files_are_decoded_and_doubted_for_what_they_are(tmp_path, row):
    write, expected = BROKEN[row]
    path = write(tmp_path)
    decoded = decode_audio(path)
    wrong_name = misnamed(path.name, decoded.container)
    assert {*decoding_problems(decoded), *([wrong_name] if wrong_name else [])} == set(expected)


def test_a_file_that_goes_on_after_its_declared_end_is_told():
    decoded = DecodedAudio(Samples.of(np.zeros((1, 44100), np.float32)), 44100, "MP3", 0.5, 0, False)
    assert set(decoding_problems(decoded)) == {"longer than declared"}


USELESS = {
    "half m4a": lambda folder: broken.write_half(folder, "aac.m4a"),
    "empty": lambda folder: broken.write_bytes(folder, "a.wav", b""),
    "zeros": lambda folder: broken.write_bytes(folder, "a.mp3", bytes(20000)),
    "text": lambda folder: broken.write_bytes(folder, "a.flac", b"hello " * 3000),
    "missing": lambda folder: folder / "gone.wav",
    "a folder": lambda folder: folder,
}


@pytest.mark.parametrize("row", USELESS)
def test_what_is_no_audio_is_refused_in_one_line(tmp_path, row):
    path = USELESS[row](tmp_path)
    with pytest.raises(InputError) as caught:
        decode_audio(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_head_without_audio_gives_no_samples_and_nan_stays_visible(tmp_path):
    assert decode_audio(broken.write_header_only_wav(tmp_path)).wav.shape == (2, 0)
    assert np.isnan(decode_audio(broken.write_nan_wav(tmp_path)).wav).any()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "IMA_ADPCM"])
def test_the_declared_frames_of_a_wav_are_its_frames_or_unknown_for_coded_samples(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", chord(220, 1.0).T, RATE_HZ, subtype=subtype)
    expected = None if subtype == "IMA_ADPCM" else RATE_HZ
    assert declared_frames(tmp_path / "a.wav", "WAV") == expected
