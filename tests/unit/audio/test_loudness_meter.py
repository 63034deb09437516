import numpy as np
import pyloudnorm
import pytest
from support.sounds import noise, tone

from riffusion_train.audio.loudness import LoudnessMeter, _k_weighting, loudness_gain, measure_loudness


@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_loudness_is_pyloudnorms(rate_hz: int) -> None:
    quiet, loud = noise(2.0, rate_hz, 1, 0.02), noise(3.0, rate_hz, 2, 0.2)
    stereo = np.concatenate([np.concatenate([quiet, loud], 1), np.concatenate([loud, quiet], 1)])
    lufs, _ = measure_loudness(stereo, rate_hz)
    assert lufs == pytest.approx(pyloudnorm.Meter(rate_hz).integrated_loudness(stereo.T.astype(np.float64)), abs=0.05)


def test_blocks_of_any_size_give_the_same() -> None:
    wav = noise(3.3, 22050, 3)
    whole = measure_loudness(wav, 22050)
    meter = LoudnessMeter(22050, 1)
    for start in range(0, wav.shape[1], 1234):
        meter.push(wav[:, start : start + 1234])
    assert meter.finish() == pytest.approx(whole, rel=1e-6)


def test_the_true_peak_lies_between_the_samples() -> None:
    time = np.arange(44100)
    wav = (0.9 * np.sin(2 * np.pi * time / 4 + np.pi / 4)).astype(np.float32)[None]
    assert np.abs(wav).max() == pytest.approx(0.636, abs=0.001)
    assert measure_loudness(wav, 44100)[1] == pytest.approx(0.9, abs=0.03)


def test_the_gain_reaches_the_target_or_the_ceiling() -> None:
    wav = noise(2.0, 44100, 0, 0.05)
    found = measure_loudness(wav, 44100)
    gain = loudness_gain(*found, -20.0, -1.0)
    assert measure_loudness(wav * gain, 44100)[0] == pytest.approx(-20.0, abs=0.05)
    spike = tone(440, 2.0, 44100, 0.05)
    spike[0, 1000] = 0.9
    found = measure_loudness(spike, 44100)
    assert measure_loudness(spike * loudness_gain(*found, -5.0, -1.0), 44100)[1] <= 10 ** (-1 / 20) + 1e-4


def test_silence_stays_silent() -> None:
    silence = np.zeros((1, 44100), np.float32)
    assert loudness_gain(*measure_loudness(silence, 44100), -14.0, -1.0) == 1.0


def test_sounds_shorter_than_a_block_have_a_loudness() -> None:
    lufs, _ = measure_loudness(tone(1000, 0.2, 44100), 44100)
    assert lufs is not None
    assert -20 < lufs < -8


@pytest.mark.parametrize("rate_hz", [8000, 22050, 44100, 48000, 96000])
def test_the_weighting_is_pyloudnorms_to_the_bit(rate_hz: int) -> None:
    stages = pyloudnorm.Meter(rate_hz)._filters.values()
    expected = np.array([[*(stage.passband_gain * stage.b), *stage.a[1:]] for stage in stages])
    np.testing.assert_array_equal(_k_weighting(rate_hz), expected)
