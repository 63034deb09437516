from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from support.sounds import level_db, noise, tone

from riffusion_train.audio.compare import compare_sounds
from riffusion_train.audio.image_file import load_image
from riffusion_train.audio.read import read_audio
from riffusion_train.audio.write import write_audio
from riffusion_train.cli.main import main
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT

RATE_HZ = 22050


def run(*words: object) -> int:
    return main(["spectrogram", *map(str, words)])


def chirps(duration_s: float) -> np.ndarray:
    """A sound that is different everywhere, loud at the start and quiet at the end."""
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    sweep = np.sin(2 * np.pi * (300 * time_s + 120 * time_s**2)) * np.exp(-time_s / 4)
    return (0.4 * sweep)[None].astype(np.float32) + noise(duration_s, RATE_HZ, amplitude=0.001)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    write_audio(path, chirps(9.0), RATE_HZ)
    return path


def test_slices_decode_to_what_the_strip_decodes_to(song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run("encode", song, tmp_path / "strip.png", "preset=small") == EXIT_DONE
    assert run("encode", song, tmp_path / "slices", "preset=small", "slices=true") == EXIT_DONE
    assert "slices: 2 slices of 128x128 px, 16 px shared, for 9.00 s of audio, preset small" in capsys.readouterr().out
    assert [path.name for path in sorted((tmp_path / "slices").iterdir())] == ["song-000.png", "song-001.png"]
    assert run("decode", tmp_path / "strip.png", tmp_path / "strip.wav") == EXIT_DONE
    assert run("decode", tmp_path / "slices", tmp_path / "slices.wav") == EXIT_DONE
    (strip, _), (slices, _), (wav, _) = (
        read_audio(path) for path in (tmp_path / "strip.wav", tmp_path / "slices.wav", song)
    )
    assert slices.shape == strip.shape
    of_strip, of_slices = (compare_sounds(wav, RATE_HZ, sound, RATE_HZ, match_level=False) for sound in (strip, slices))
    assert of_slices.log_mel_10k_db < of_strip.log_mel_10k_db + 0.1
    assert level_db(slices[0]) == pytest.approx(level_db(strip[0]), abs=0.1)


def test_the_width_may_be_chosen_and_slices_may_be_named_one_by_one_in_any_order(song: Path, tmp_path: Path):
    folder = tmp_path / "slices"
    assert run("encode", song, folder, "preset=small", "width=80", "overlap=8") == EXIT_DONE
    paths = sorted(folder.iterdir())
    assert [load_image(path).image.shape for path in paths] == [(128, 80)] * 4
    assert run("decode", *paths[::-1], tmp_path / "a.wav", "quality=draft") == EXIT_DONE
    assert read_audio(tmp_path / "a.wav")[0].shape[1] == pytest.approx(9.0 * RATE_HZ, abs=882)


def test_images_that_do_not_say_where_they_belong_are_joined_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for number in (9, 10):
        PIL.Image.fromarray(np.full((64, 40), 100 + number, np.uint8)).save(tmp_path / f"clip-{number}.png")
    assert run("decode", tmp_path, tmp_path / "a.wav", "quality=draft", "overlap=10") == EXIT_DONE
    assert "2 images, 70x64 px, the image names no preset, assumed tiny" in capsys.readouterr().out


def test_a_missing_slice_is_named(song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "slices"
    run("encode", song, folder, "preset=small", "width=80")
    (folder / "song-001.png").unlink()
    assert run("decode", folder, tmp_path / "a.wav") == EXIT_INPUT
    assert "slices: columns 80 to 128 are in no image; add the missing slice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["encode", "SONG", "a.png", "slices=true"], "slices are written into a folder"),
        (["encode", "SONG", "a", "slices=yes"], "slices=yes is unknown; choose from: true, false"),
        (["encode", "SONG", "a", "width=wide"], "width=wide: not a whole number"),
        (["encode", "SONG", "a"], "must be a .png, which is lossless; a folder takes slices=true"),
        (["encode", "SONG", "a", "width=100", "overlap=60", "preset=small"], "overlap=60 must lie between 0 and half"),
        (["encode", "SONG", "SONG", "slices=true"], "is a file; name a folder"),
        (["encode", "SONG", "full", "slices=true"], "holds images already"),
        (["decode", "empty", "a.wav"], "empty: holds no images"),
        (["decode", "full/a.png", "full/b.png", "a.wav"], "was made by another codec than"),
    ],
)
def test_wrong_arguments_about_slices_are_one_line(
    song: Path, words: list[str], part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(song.parent)
    Path("empty").mkdir()
    Path("full").mkdir()
    for name, preset in (("a", "small"), ("b", "tiny")):
        run("encode", song, f"full/{name}.png", f"preset={preset}")
    capsys.readouterr()
    assert run(*(song if word == "SONG" else word for word in words)) == EXIT_INPUT
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert part in error


def test_slices_of_two_sounds_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("one", "two"):
        write_audio(tmp_path / f"{name}.wav", tone(440, 6.0, RATE_HZ), RATE_HZ)
        run("encode", tmp_path / f"{name}.wav", tmp_path / name, "preset=small", "slices=true")
    assert run("decode", tmp_path / "one", tmp_path / "two", tmp_path / "a.wav") == EXIT_INPUT
    assert "slices of several sounds" in capsys.readouterr().err
