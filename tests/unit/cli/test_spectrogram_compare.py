from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from support.sounds import noise, tone

from riffusion_train.audio.write import write_audio
from riffusion_train.cli.main import main
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT

RATE_HZ = 44100


def run(*words: object) -> int:
    return main(["spectrogram", *map(str, words)])


def figure(shown: str, name: str) -> float:
    line = next(line for line in shown.splitlines() if line.strip().startswith(name))
    return float(line.strip().removeprefix(name).split()[0])


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    write_audio(path, tone(440, 2.0, RATE_HZ) + noise(2.0, RATE_HZ, amplitude=0.02), RATE_HZ)
    return path


def test_compare_prints_the_figures_and_draws_both_sounds_and_their_difference(
    song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other, picture = tmp_path / "other.flac", tmp_path / "picture.png"
    write_audio(other, tone(440, 2.0, RATE_HZ) + noise(2.0, RATE_HZ, seed=1, amplitude=0.04), RATE_HZ)
    assert run("compare", song, other, picture) == EXIT_DONE
    shown = capsys.readouterr().out
    assert figure(shown, "log-mel error, 0-16 kHz") > 5  # twice the noise, and other noise
    assert "10000-16000 Hz" in shown
    with PIL.Image.open(picture) as file:
        pixels = np.asarray(file.convert("RGB")).astype(int)
    top, middle, bottom = np.array_split(pixels[:, 60:-20], 3)
    assert top.std() > 20
    assert middle.std() > 20
    red, blue = (bottom[..., 0] - bottom[..., 2] > 100).mean(), (bottom[..., 2] - bottom[..., 0] > 100).mean()
    assert red > 4 * blue  # B has more noise


def test_a_sound_compared_with_itself_has_no_distance(song: Path, capsys: pytest.CaptureFixture[str]):
    assert run("compare", song, song) == EXIT_DONE
    shown = capsys.readouterr().out
    assert figure(shown, "log-mel error, 0-16 kHz") == 0
    assert figure(shown, "spectral convergence") == 0


def test_an_image_stands_for_the_sound_it_decodes_to(song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for preset in ("hifi", "tiny"):
        assert run("encode", song, tmp_path / f"{preset}.png", f"preset={preset}") == EXIT_DONE
    errors = []
    for preset in ("hifi", "tiny"):
        capsys.readouterr()
        assert run("compare", song, tmp_path / f"{preset}.png") == EXIT_DONE
        errors.append(figure(capsys.readouterr().out, "log-mel error, 0-16 kHz"))
    assert errors[0] < 1.5
    assert errors[1] > 3 * errors[0]


def test_level_keep_counts_the_loudness(song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    quiet = tmp_path / "quiet.wav"
    write_audio(quiet, 0.5 * (tone(440, 2.0, RATE_HZ) + noise(2.0, RATE_HZ, amplitude=0.02)), RATE_HZ)
    assert run("compare", song, quiet) == EXIT_DONE
    shown = capsys.readouterr().out
    assert "song.wav is +6.02 dB louder, evened out" in shown
    assert figure(shown, "log-mel error, 0-16 kHz") < 0.1
    assert run("compare", song, quiet, "level=keep") == EXIT_DONE
    assert figure(capsys.readouterr().out, "log-mel error, 0-16 kHz") > 4


def test_compare_says_what_it_had_to_even_out(song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    wide = tmp_path / "wide.wav"
    write_audio(wide, np.concatenate([noise(1.0, RATE_HZ, seed=1), noise(1.0, RATE_HZ, seed=2)]), RATE_HZ)
    assert run("compare", song, wide) == EXIT_DONE
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert "lasts 1.00 s, not 2.00 s" in warnings[0]
    assert "is mono" in warnings[1]


def test_stereo_sounds_are_compared_in_width_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    wide, narrow = tmp_path / "wide.wav", tmp_path / "narrow.wav"
    one, two = noise(1.0, RATE_HZ, seed=1), noise(1.0, RATE_HZ, seed=2)
    write_audio(wide, np.concatenate([one, two]), RATE_HZ)
    write_audio(narrow, np.concatenate([one, one]), RATE_HZ)
    assert run("compare", wide, narrow) == EXIT_DONE
    assert figure(capsys.readouterr().out, "inter-channel coherence error") > 0.7


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["compare", "SONG"], "usage: riffusion spectrogram compare A B [OUT.png]"),
        (["compare", "SONG", "SONG", "a.jpg"], "the image must be a .png"),
        (["compare", "SONG", "SONG", "absent/a.png"], "cannot be written"),
        (["compare", "silent.wav", "SONG"], "the first sound is silent"),
        (["compare", "SONG", "SONG", "level=loud"], "choose from: match, keep"),
    ],
)
def test_what_cannot_be_compared_is_named(
    song: Path, words: list[str], part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(song.parent)
    write_audio(Path("silent.wav"), np.zeros((1, 4000), np.float32), RATE_HZ)
    assert run(*(song if word == "SONG" else word for word in words)) == EXIT_INPUT
    assert part in capsys.readouterr().err.splitlines()[-1]
