from pathlib import Path

import numpy as np
import pytest
from support.auditions import write_clip
from support.nano import NANO_SPECTROGRAM

from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.image_file import save_image
from riffusion_train.audio.loudness import measure_lufs
from riffusion_train.audio.read import read_audio
from riffusion_train.audio.write import write_audio
from riffusion_train.audition.site import heard_lufs, matching_target_lufs, measure_clip


def test_a_sine_of_full_scale_has_the_loudness_that_the_standard_gives() -> None:
    time_s = np.arange(48000 * 3) / 48000
    sine = np.sin(2 * np.pi * 997 * time_s)[None]
    assert measure_lufs(sine, 48000, whole_clip=True) == pytest.approx(-3.01, abs=0.1)
    assert measure_lufs(0.1 * sine, 48000, whole_clip=True) == pytest.approx(-23.01, abs=0.1)


@pytest.mark.parametrize("samples", [0, 1, 48000])
def test_silence_has_no_loudness(samples: int) -> None:
    assert measure_lufs(np.zeros((1, samples)), 48000, whole_clip=True) is None


def test_a_clip_below_one_block_has_a_loudness() -> None:
    sine = np.sin(2 * np.pi * 997 * np.arange(4800) / 48000)[None]
    assert measure_lufs(sine, 48000, whole_clip=True) == pytest.approx(-3.01, abs=0.3)


def test_sound_that_is_its_image_differs_less_from_it_than_other_sound(tmp_path: Path) -> None:
    codec = make_codec(NANO_SPECTROGRAM)
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.1, (1, codec.clip_samples)).astype(np.float32)
    image = codec.encode(sound)
    save_image(tmp_path / "image.png", image, NANO_SPECTROGRAM)
    other = np.sin(2 * np.pi * 500 * np.arange(codec.clip_samples) / codec.rate_hz).astype(np.float32)[None] / 2
    errors = {}
    for name, wav in (("own", sound), ("other", other)):
        write_audio(tmp_path / f"{name}.wav", wav, codec.rate_hz)
        measured = measure_clip(tmp_path / f"{name}.wav", tmp_path / "image.png")
        errors[name] = measured.metrics["image_error_percent"]
    assert errors["own"] < 0.5
    assert errors["other"] > 10


def test_a_silent_clip_has_a_lowest_peak_and_no_loudness(tmp_path: Path) -> None:
    write_clip(tmp_path, "clip", level_db=-200.0)
    measured = measure_clip(tmp_path / "clip.wav", tmp_path / "clip.png")
    assert measured.metrics["peak_dbfs"] == -120.0
    assert "loudness_lufs" not in measured.metrics


def test_a_mono_clip_is_heard_as_loud_as_the_same_on_both_channels(tmp_path: Path) -> None:
    write_clip(tmp_path, "clip")
    wav, rate_hz = read_audio(tmp_path / "clip.wav")
    write_audio(tmp_path / "both.wav", np.repeat(wav, 2, axis=0), rate_hz)
    mono, both = (measure_clip(tmp_path / name, tmp_path / "clip.png") for name in ("clip.wav", "both.wav"))
    assert both.metrics["loudness_lufs"] == pytest.approx(mono.metrics["loudness_lufs"] + 3.01, abs=0.01)
    assert heard_lufs(both) == pytest.approx(heard_lufs(mono), abs=0.01)


def test_all_clips_are_matched_to_the_quietest() -> None:
    assert matching_target_lufs([-14.0, -20.0, -17.0]) == -20.0


def test_one_faint_clip_does_not_hush_the_others() -> None:
    assert matching_target_lufs([-14.0, -14.0, -14.0, -60.0]) == -26.0


def test_a_site_of_silence_has_no_common_loudness() -> None:
    assert matching_target_lufs([]) is None
