"""Tempo and key from a sound."""

import numpy as np
import pytest

from riffusion_train.listening.attributes import measure_key, measure_tempo, separate


def clicks(bpm, rate_hz, duration_s=12.0):
    wav = np.zeros((1, round(duration_s * rate_hz)), np.float32)
    burst = np.random.default_rng(0).standard_normal(1600) * np.exp(-np.arange(1600) / 300)
    for start_s in np.arange(0, duration_s - 0.1, 60 / bpm):
        start = round(start_s * rate_hz)
        wav[0, start : start + 1600] += burst
    return 0.3 * wav


def minor_triad(root_hz, rate_hz, duration_s=4.0):
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    factors = (0.5, 1.0, 2 ** (3 / 12), 2 ** (7 / 12), 2.0)
    tones = [np.sin(2 * np.pi * root_hz * factor * time_s) for factor in factors]
    return 0.1 * np.stack([sum(tones)] * 2).astype(np.float32)


def test_the_tempo_of_clicks_is_measured_at_any_rate():
    assert measure_tempo(clicks(120, 44_100), 44_100) == pytest.approx(120, rel=0.03)


def test_the_key_of_a_chord_is_measured_in_stereo():
    assert measure_key(minor_triad(440.0, 48_000), 48_000) == "A minor"


def test_silence_and_a_fraction_of_a_second_have_neither():
    silence = np.zeros((2, 3 * 22_050), np.float32)
    assert measure_tempo(silence, 22_050) is None and measure_key(silence, 22_050) is None
    short = minor_triad(440.0, 22_050, duration_s=0.5)
    assert measure_tempo(short, 22_050) is None and measure_key(short, 22_050) is None
    empty = np.zeros((1, 0), np.float32)
    assert measure_tempo(empty, 22_050) is None and measure_key(empty, 22_050) is None


def test_the_separation_is_librosas_to_the_last_bit():
    from librosa.decompose import hpss

    spectrum = np.abs(np.random.default_rng(0).normal(size=(60, 90))).astype(np.float32)
    for ours, theirs in zip(separate(spectrum), hpss(spectrum), strict=True):
        np.testing.assert_array_equal(ours, theirs)
