"""Files that `riffusion spectrogram` was not made for: it does what it can and says what that cost, in one line each."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL.PngImagePlugin import PngInfo
from support.sounds import noise, pitch_hz, tone

from riffusion_train.audio.image_file import load_image
from riffusion_train.audio.read import read_audio
from riffusion_train.audio.write import write_audio
from riffusion_train.cli.main import main
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT


def run(*words: object) -> int:
    return main(["spectrogram", *map(str, words)])


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 32000, 96000, 192000])
def test_every_usual_rate_is_encoded_and_keeps_its_pitch(rate_hz: int, capsys: pytest.CaptureFixture[str]):
    write_audio(Path("a.wav"), tone(880, 2.0, rate_hz), rate_hz)
    assert run("encode", "a.wav", "a.png", "preset=small") == EXIT_DONE
    assert run("decode", "a.png", "b.wav") == EXIT_DONE
    wav, out_hz = read_audio(Path("b.wav"))
    assert pitch_hz(wav[0], out_hz) == pytest.approx(880, rel=0.03)
    assert ("holds nothing above" in capsys.readouterr().err) is (rate_hz < 18000)


@pytest.mark.parametrize("samples", [1, 100, 4000])
def test_a_sound_shorter_than_a_window_is_encoded_with_a_warning(samples: int, capsys: pytest.CaptureFixture[str]):
    write_audio(Path("a.wav"), noise(samples / 44100, 44100), 44100)
    assert run("encode", "a.wav", "a.png") == EXIT_DONE
    warnings = capsys.readouterr().err.splitlines()
    assert [line for line in warnings if "less than one window (0.100 s); silence is added" in line]
    assert run("decode", "a.png", "b.wav", "quality=draft") == EXIT_DONE


def test_a_truncated_song_is_encoded_with_a_warning_that_names_it(capsys: pytest.CaptureFixture[str]):
    write_audio(Path("a.wav"), tone(440, 4.0, 22050), 22050)
    Path("a.wav").write_bytes(Path("a.wav").read_bytes()[:90_000])
    assert run("encode", "a.wav", "a.png", "preset=small") == EXIT_DONE
    error = capsys.readouterr().err
    assert error == (
        "riffusion spectrogram: warning: a.wav: truncated: 2.04 s could be decoded of the 4.00 s "
        "its container declares\n"
    )


def test_mono_sound_makes_a_stereo_image_and_stereo_sound_a_mono_one():
    write_audio(Path("mono.wav"), tone(440, 1.0, 22050), 22050)
    write_audio(Path("stereo.wav"), tone(440, 1.0, 22050).repeat(2, 0), 22050)
    assert run("encode", "mono.wav", "a.png", "preset=small", "channels=stereo") == EXIT_DONE
    pixels = load_image(Path("a.png")).image
    np.testing.assert_array_equal(pixels[..., 1], pixels[..., 2])
    assert run("encode", "stereo.wav", "b.png", "preset=small") == EXIT_DONE
    assert load_image(Path("b.png")).image.ndim == 2


def test_a_jpeg_is_decoded_with_a_warning(capsys: pytest.CaptureFixture[str]):
    write_audio(Path("a.wav"), tone(440, 2.0, 22050), 22050)
    run("encode", "a.wav", "a.png", "preset=tiny")
    with PIL.Image.open("a.png") as file:
        file.save("a.jpg")
    assert run("decode", "a.jpg", "b.wav") == EXIT_DONE
    shown = capsys.readouterr()
    assert "warning: a.jpg: JPEG compression" in shown.err
    assert "the image names no preset, assumed tiny" in shown.out  # a JPEG has no PNG text


def test_the_height_says_which_preset_an_image_is_of(capsys: pytest.CaptureFixture[str]):
    for height, preset in ((64, "tiny"), (128, "small"), (512, "riffusion_v1")):
        PIL.Image.fromarray(np.full((height, 30), 255, np.uint8)).save("a.png")
        assert run("decode", "a.png", "a.wav", "quality=draft") == EXIT_DONE
        assert f"the image names no preset, assumed {preset}" in capsys.readouterr().out


def test_a_photograph_is_refused_by_its_height_and_doubted_by_its_colours(capsys: pytest.CaptureFixture[str]):
    colours = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    PIL.Image.fromarray(colours).save("photo.png")
    assert run("decode", "photo.png", "a.wav") == EXIT_INPUT
    error = capsys.readouterr().err
    assert "photo.png: an image of 400x300 px is no spectrogram of a known preset (heights: " in error
    assert "small 128" in error
    assert error.count("\n") == 1
    PIL.Image.fromarray(colours[:64]).save("photo.png")
    assert run("decode", "photo.png", "a.wav", "quality=draft") == EXIT_DONE
    assert "levels, though 'tiny' is grey; they are averaged" in capsys.readouterr().err


def test_a_resized_image_is_refused_unless_a_preset_is_named(capsys: pytest.CaptureFixture[str]):
    write_audio(Path("a.wav"), tone(440, 2.0, 22050), 22050)
    run("encode", "a.wav", "a.png", "preset=small")
    loaded = load_image(Path("a.png"))
    info = PngInfo()
    with PIL.Image.open("a.png") as file:
        info.add_text("spectrogram", file.text["spectrogram"])
        file.resize((40, 64)).save("b.png", pnginfo=info)
    assert loaded.config is not None
    capsys.readouterr()
    assert run("decode", "b.png", "b.wav") == EXIT_INPUT
    assert "is 64 px high, but its text 'spectrogram' say 128: it was resized or cropped" in capsys.readouterr().err
    assert run("decode", "b.png", "b.wav", "preset=tiny", "quality=draft") == EXIT_DONE
    assert run("inspect", "b.png") == EXIT_DONE
    assert "warning: b.png: is 64 px high" in capsys.readouterr().err


def test_a_description_that_contradicts_itself_is_one_line(capsys: pytest.CaptureFixture[str]):
    write_audio(Path("a.wav"), tone(440, 2.0, 22050), 22050)
    run("encode", "a.wav", "a.png", "preset=small")
    info = PngInfo()
    with PIL.Image.open("a.png") as file:
        data = json.loads(file.text["spectrogram"])
        data["spectrogram"]["win_length"] = 5000  # longer than n_fft
        info.add_text("spectrogram", json.dumps(data))
        file.save("b.png", pnginfo=info)
    capsys.readouterr()
    assert run("decode", "b.png", "b.wav") == EXIT_INPUT
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "hop_length <= win_length <= n_fft must hold" in error


def test_an_image_of_one_column_is_one_line(capsys: pytest.CaptureFixture[str]):
    PIL.Image.fromarray(np.full((128, 1), 0, np.uint8)).save("a.png")
    assert run("decode", "a.png", "b.wav") == EXIT_INPUT
    assert capsys.readouterr().err.count("\n") == 1


def test_an_inverter_is_chosen_by_name_and_a_wrong_one_lists_the_choices(capsys: pytest.CaptureFixture[str]):
    write_audio(Path("a.wav"), tone(440, 2.0, 22050), 22050)
    run("encode", "a.wav", "a.png", "preset=small")
    sounds = []
    for inverter in ("pghi", "fast_griffin_lim"):
        assert run("decode", "a.png", "b.wav", f"inverter={inverter}", "quality=draft") == EXIT_DONE
        sounds.append(read_audio(Path("b.wav"))[0])
    assert not np.array_equal(*sounds)
    capsys.readouterr()
    assert run("decode", "a.png", "b.wav", "inverter=magic") == EXIT_INPUT
    assert "choose from: pghi, fast_griffin_lim, griffin_lim" in capsys.readouterr().err
