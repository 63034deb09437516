import dataclasses
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from support.sounds import pitch_hz, tone

from riffusion_train.audio.image_file import load_image
from riffusion_train.audio.read import read_audio
from riffusion_train.audio.write import write_audio
from riffusion_train.cli.main import main
from riffusion_train.config.spectrogram import Channels, load_preset, write_spectrogram
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "a song = good.flac"
    write_audio(path, tone(440, 3.0, 44100), 44100)
    return path


def run(*words: object) -> int:
    return main(["spectrogram", *map(str, words)])


def test_encode_then_decode_gives_the_song_back(song: Path, capsys: pytest.CaptureFixture[str]):
    image, audio = song.with_suffix(".png"), song.with_suffix(".ogg")
    assert run("encode", song, image, "preset=small") == EXIT_DONE
    assert capsys.readouterr().out == f"wrote {image}: 76x128 px for 3.00 s of audio, preset small\n"
    assert run("decode", image, audio) == EXIT_DONE
    assert capsys.readouterr().out == f"wrote {audio}: 3.00 s at 22050 Hz from 76x128 px, preset small\n"
    wav, rate_hz = read_audio(audio)
    assert pitch_hz(wav[0], rate_hz) == pytest.approx(440, rel=0.03)


def test_encode_takes_riffusion_v1_unless_another_is_named(song: Path, tmp_path: Path):
    assert run("encode", song, tmp_path / "a.png") == EXIT_DONE
    assert load_image(tmp_path / "a.png").config == load_preset("riffusion_v1")


def test_the_preset_may_be_a_spectrogram_json_or_its_folder(song: Path, tmp_path: Path):
    config = dataclasses.replace(load_preset("small"), name="mine", n_mels=100)
    write_spectrogram(tmp_path, config)
    for preset in (tmp_path, tmp_path / "spectrogram.json"):
        assert run("encode", song, tmp_path / "a.png", f"preset={preset}") == EXIT_DONE
        assert load_image(tmp_path / "a.png").config == config


def test_channels_stereo_makes_a_stereo_image(song: Path, tmp_path: Path):
    assert run("encode", song, tmp_path / "a.png", "preset=small", "channels=stereo") == EXIT_DONE
    loaded = load_image(tmp_path / "a.png")
    assert loaded.config is not None
    assert loaded.config.channels is Channels.stereo
    assert run("decode", tmp_path / "a.png", tmp_path / "a.wav", "quality=draft") == EXIT_DONE
    assert read_audio(tmp_path / "a.wav")[0].shape[0] == 2


def test_decode_says_which_preset_it_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    PIL.Image.fromarray(np.full((512, 8), 255, np.uint8)).save(tmp_path / "bare.png")
    assert run("decode", tmp_path / "bare.png", tmp_path / "a.wav") == EXIT_DONE
    assert "the image names no preset, assumed riffusion_v1" in capsys.readouterr().out


def test_inspect_tells_what_a_file_holds(song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run("encode", song, tmp_path / "a.png", "preset=small")
    capsys.readouterr()
    assert run("inspect", tmp_path / "a.png") == EXIT_DONE
    shown = capsys.readouterr().out
    assert "76x128 px, grey" in shown
    assert "hop_length=882" in shown
    assert run("inspect", song) == EXIT_DONE
    assert "3.00 s, 44100 Hz, 1 channel, peak 0.300" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "encode, decode, inspect"),
        (["enocde"], "unknown action 'enocde'"),
        (["encode", "SONG"], "usage: riffusion spectrogram encode AUDIO IMAGE"),
        (["encode", "SONG", "a.png", "presett=tiny"], "got"),
        (
            ["encode", "SONG", "a.png", "preset=loud"],
            "choose from: hifi, hifi_stereo, laptop, riffusion_v1, small, tiny",
        ),
        (["encode", "SONG", "a.png", "channels=5.1"], "choose from: mono, stereo"),
        (["encode", "SONG", "a.jpg"], "must be a .png"),
        (["encode", "absent.wav", "a.png"], "absent.wav: No such file"),
        (["decode", "SONG", "a.wav"], "cannot be read as an image"),
        (["decode", "absent.png", "a.xyz"], "cannot write '.xyz' audio"),
        (["inspect", "absent.wav"], "absent.wav: No such file"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    song: Path, words: list[str], part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(song.parent)
    assert run(*(song if word == "SONG" else word for word in words)) == EXIT_INPUT
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert part in error


def test_help_names_the_presets(capsys: pytest.CaptureFixture[str]):
    assert run("--help") == EXIT_DONE
    assert "hifi|hifi_stereo|laptop|riffusion_v1|small|tiny|PATH" in capsys.readouterr().out
