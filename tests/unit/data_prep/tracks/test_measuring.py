import fcntl
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_prep.tracks import measuring
from data_prep.tracks.measuring import ATTRIBUTES, measure, parse_attributes
from riffusion_train.audio.read import read_audio
from riffusion_train.listening.attributes import RATE_HZ
from riffusion_train.runtime.errors import InputError


def clicks(bpm, duration_s=12.0):
    wav = np.zeros((1, round(duration_s * RATE_HZ)), np.float32)
    burst = np.random.default_rng(0).standard_normal(800) * np.exp(-np.arange(800) / 150)
    for start in np.arange(0, duration_s - 0.1, 60 / bpm):
        at = round(start * RATE_HZ)
        wav[0, at : at + 800] += burst
    return 0.3 * wav


def triad(root_hz, third):
    time_s = np.arange(6 * RATE_HZ) / RATE_HZ
    # The tonic an octave below and above distinguishes it from the other keys that hold the chord.
    factors = (0.5, 1.0, 2 ** (third / 12), 2 ** (7 / 12), 2.0)
    return 0.1 * sum(np.sin(2 * np.pi * root_hz * factor * time_s) for factor in factors)[None].astype(np.float32)


@pytest.mark.parametrize("bpm", [92, 120, 140])
def test_the_tempo_of_clicks_is_measured(bpm):
    assert measure(clicks(bpm), RATE_HZ, -14, ["bpm"]).bpm == pytest.approx(bpm, rel=0.03)


def test_major_and_minor_are_told_apart():
    assert measure(triad(440.0, 4), RATE_HZ, -14, ["key"]).columns(ATTRIBUTES) == {"key": "A major"}
    assert measure(triad(440.0, 3), RATE_HZ, -14, ["key"]).columns(ATTRIBUTES) == {"key": "A minor"}


def test_clicks_are_drums_and_a_chord_is_not():
    assert measure(clicks(120), RATE_HZ, -14, ["drums"]).columns(ATTRIBUTES) == {"drums": True}
    assert measure(triad(440.0, 4), RATE_HZ, -14, ["drums"]).columns(ATTRIBUTES) == {"drums": False}


@pytest.mark.parametrize(
    "name", ["calm/calm_acoustic_s522", "happy/happy_acoustic_s411", "nostalgic/nostalgic_acoustic_1"]
)
def test_brushed_drums_of_produced_music_are_heard(name):
    music = pytest.importorskip("immich_memories_music")
    wav, rate_hz = read_audio(music.tracks_dir() / f"{name}.opus")
    assert measure(wav[:, 10 * rate_hz : 20 * rate_hz], rate_hz, -14, ["drums"]).columns(ATTRIBUTES) == {"drums": True}


def test_noise_is_bright_and_a_low_tone_dark_and_loudness_is_a_word():
    hiss = np.random.default_rng(0).standard_normal((1, 3 * RATE_HZ)).astype(np.float32)
    measured = measure(hiss, RATE_HZ, -30.0, ["brightness", "loudness"])
    assert measured.columns(ATTRIBUTES) == {"brightness": "bright", "loudness": "quiet"}
    assert measure(triad(110.0, 4), RATE_HZ, None, ["brightness", "loudness"]).columns(ATTRIBUTES) == {
        "brightness": "dark"
    }


def test_attributes_are_named_or_refused():
    assert parse_attributes("bpm, key") == ("bpm", "key") and parse_attributes(None) == ()
    with pytest.raises(InputError, match="unknown attribute 'tempo'; choose from: all, bpm"):
        parse_attributes("tempo")


def test_what_librosa_compiles_is_compiled_by_one_process_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    measuring._compile.cache_clear()
    sound = triad(220.0, 4)
    with (tmp_path / f"riffusion-compile-{os.getuid()}.lock").open("w") as other, ThreadPoolExecutor(1) as pool:
        fcntl.flock(other, fcntl.LOCK_EX)
        measured = pool.submit(measure, sound, RATE_HZ, None, ["key"])
        with pytest.raises(TimeoutError):
            measured.result(timeout=1)
        fcntl.flock(other, fcntl.LOCK_UN)
        assert measured.result().key is not None
    assert measure(sound, RATE_HZ, None, ["key"]) == measured.result()  # and without waiting again
