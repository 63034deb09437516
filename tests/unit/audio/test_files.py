from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from support.sounds import level_db, noise, pitch_hz, tone

from riffusion_train.audio.read import read_audio, resample
from riffusion_train.audio.write import FORMATS, TAGS, read_tags, write_audio
from riffusion_train.runtime.errors import InputError


def stereo(rate_hz: int) -> np.ndarray:
    return np.concatenate([tone(440, 1.0, rate_hz), tone(880, 1.0, rate_hz)])


@pytest.mark.parametrize("rate_hz", [22050, 44100])
@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_every_written_format_is_read_back(tmp_path: Path, suffix: str, rate_hz: int):
    path = tmp_path / f"clip{suffix}"
    write_audio(path, stereo(rate_hz), rate_hz)
    wav, read_hz = read_audio(path)
    assert wav.dtype == np.float32
    assert wav.shape[0] == 2
    assert wav.shape[1] / read_hz == pytest.approx(1.0, abs=0.002)
    assert pitch_hz(wav[0], read_hz) == pytest.approx(440, abs=2)
    assert pitch_hz(wav[1], read_hz) == pytest.approx(880, abs=2)
    assert level_db(wav[0]) == pytest.approx(level_db(stereo(rate_hz)[0]), abs=0.5)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_tags_survive_with_long_and_foreign_texts(tmp_path: Path, suffix: str):
    path = tmp_path / f"clip{suffix}"
    tags = {name: f"ein Lied, 'für' \"Ü\" ♫ {name}" for name in TAGS}
    tags["comment"] = '{"prompt": "' + "drums " * 5000 + '"}'
    write_audio(path, stereo(44100), 44100, tags)
    assert read_tags(path) == tags
    assert read_audio(path)[0].shape[1] == pytest.approx(44100 * (48000 / 44100 if suffix == ".opus" else 1), abs=2)


def test_samples_beyond_full_scale_are_clipped_not_wrapped(tmp_path: Path):
    path = tmp_path / "loud.wav"
    write_audio(path, np.array([[1.5, -1.5, 0.0]], np.float32), 44100)
    np.testing.assert_allclose(read_audio(path)[0], [[1.0, -1.0, 0.0]], atol=1e-4)


def test_a_16_bit_wav_is_read_exactly(tmp_path: Path):
    path = tmp_path / "clip.wav"
    int16 = np.array([[-32768, -1, 0, 1, 32767]], np.int16)
    soundfile.write(path, int16.T, 8000, subtype="PCM_16")
    np.testing.assert_array_equal(read_audio(path)[0], int16 / np.float32(32768))


def test_a_file_is_judged_by_its_content(tmp_path: Path):
    path = tmp_path / "really_flac.mp3"
    soundfile.write(path, stereo(44100).T, 44100, format="FLAC")
    assert read_audio(path)[0].shape == (2, 44100)


@pytest.mark.parametrize("codec", ["aac", "alac"])
def test_m4a_is_read(tmp_path: Path, codec: str):
    path = tmp_path / "clip.m4a"
    wav = stereo(44100)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=44100, layout="stereo")
        kind = "fltp" if codec == "aac" else "s16p"
        samples = wav if codec == "aac" else (wav * 32767).astype(np.int16)
        for start in range(0, 44100, 4096):
            block = np.ascontiguousarray(samples[:, start : start + 4096])
            frame = av.AudioFrame.from_ndarray(block, format=kind, layout="stereo")
            frame.sample_rate, frame.pts = 44100, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    read, rate_hz = read_audio(path)
    assert rate_hz == 44100
    assert read.shape[1] == pytest.approx(44100, abs=2100)
    assert pitch_hz(read[0], rate_hz) == pytest.approx(440, abs=2)
    assert pitch_hz(read[1], rate_hz) == pytest.approx(880, abs=2)
    assert level_db(read[0]) == pytest.approx(level_db(wav[0]), abs=0.5)


def test_a_flac_cut_in_half_gives_what_can_be_decoded(tmp_path: Path):
    path = tmp_path / "half.flac"
    write_audio(path, noise(4.0, 44100), 44100)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    wav, _ = read_audio(path)
    assert 60_000 < wav.shape[1] < 100_000


def test_a_rotten_mp3_is_read_without_noise_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = tmp_path / "rotten.mp3"
    write_audio(path, noise(4.0, 44100), 44100)
    data = bytearray(path.read_bytes())
    places = np.random.default_rng(0).integers(2000, len(data), 400)
    for place in places:
        data[place] ^= 0xFF
    path.write_bytes(bytes(data))
    wav, _ = read_audio(path)
    assert wav.shape[1] > 44100
    assert capfd.readouterr().err == ""


def header_only(path: Path) -> None:
    soundfile.write(path, np.zeros((0, 2), np.float32), 44100, format="WAV")


def not_numbers(path: Path) -> None:
    soundfile.write(path, np.full((100, 1), np.nan, np.float32), 44100, format="WAV", subtype="FLOAT")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(bytes(5000)), "cannot be read as audio"),
        (lambda path: path.write_text("not a song at all\n" * 50), "cannot be read as audio"),
        (header_only, "holds no audio samples"),
        (not_numbers, "samples that are not numbers"),
    ],
)
def test_a_file_that_cannot_be_used_gives_one_line_with_its_name_and_the_reason(tmp_path: Path, make, reason: str):
    path = tmp_path / "song.wav"
    make(path)
    with pytest.raises(InputError, match=reason) as caught:
        read_audio(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_suffix_is_refused_with_the_choices(tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot write '\.aac'.*\.wav"):
        write_audio(tmp_path / "clip.aac", stereo(44100), 44100)


def test_writing_into_a_folder_that_is_not_there_is_one_line(tmp_path: Path):
    with pytest.raises(InputError, match=r"clip\.wav: cannot be written"):
        write_audio(tmp_path / "absent" / "clip.wav", stereo(44100), 44100)


def test_resampling_keeps_duration_pitch_and_level():
    wav = stereo(48000)
    resampled = resample(wav, 48000, 22050)
    assert resampled.shape == (2, 22050)
    assert pitch_hz(resampled[1], 22050) == pytest.approx(880, abs=1)
    assert np.abs(resampled[:, 2000:-2000]).max() == pytest.approx(0.3, rel=0.01)
