import numpy as np
import pyloudnorm
import pytest
from support.corpus_files import chord, noise, tone

from riffusion_train.audio.loudness import gain_db, measure_lufs, rms_dbfs


def sine(level_dbfs, duration_s=3.0, rate_hz=48000):
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return np.tile(10 ** (level_dbfs / 20) * np.sin(2 * np.pi * 1000 * time_s), (2, 1)).astype(np.float32)


def test_a_stereo_sine_at_minus_23_dbfs_reads_minus_23_lufs_as_ebu_tech_3341_case_1_demands():
    assert measure_lufs(sine(-23), 48000) == pytest.approx(-23, abs=0.1)


def test_silence_and_sounds_below_a_gating_block_have_no_loudness():
    assert measure_lufs(np.zeros((2, 48000), np.float32), 48000) is None
    assert measure_lufs(sine(-10, 0.39), 48000) is None
    assert measure_lufs(sine(-10, 0.4), 48000) is not None
    assert gain_db(sine(-10), None, -14, -1) == 0


def test_the_gain_reaches_the_target():
    wav = sine(-40)
    gain = gain_db(wav, measure_lufs(wav, 48000), -23, -1)
    assert measure_lufs(wav * np.float32(10 ** (gain / 20)), 48000) == pytest.approx(-23, abs=0.01)


def test_the_gain_stops_where_the_highest_sample_would_pass_the_ceiling():
    wav = sine(-30)
    wav[:, 1000] = 0.5
    gain = gain_db(wav, measure_lufs(wav, 48000), -14, -1)
    assert 20 * np.log10(np.abs(wav).max()) + gain == pytest.approx(-1, abs=1e-4)


def test_rms_of_a_sine_is_three_db_below_its_peak():
    assert rms_dbfs(sine(-20)) == pytest.approx(-23.01, abs=0.01)
    assert rms_dbfs(np.zeros((1, 10), np.float32)) == -np.inf
    assert rms_dbfs(tone(440, 1.0)) > -30


@pytest.mark.parametrize("rate_hz", [16000, 22050, 44100, 48000])
def test_the_loudness_is_that_of_pyloudnorm_also_where_the_gates_act(rate_hz):
    loud, quiet = chord(220, 2.1, rate_hz), 0.02 * np.repeat(noise(1, 3.0, rate_hz), 2, axis=0)
    wav = np.concatenate([loud, quiet, np.zeros((2, rate_hz), np.float32), loud], axis=1)
    expected = pyloudnorm.Meter(rate_hz).integrated_loudness(wav.T.astype(np.float64))
    assert measure_lufs(wav, rate_hz) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 44100, 96000])
def test_the_loudness_is_exact_to_a_hundredth_beside_a_large_constant_offset(rate_hz):
    wav = 0.05 * np.repeat(noise(2, 3.0, rate_hz), 2, axis=0) + np.float32(0.6)
    expected = pyloudnorm.Meter(rate_hz).integrated_loudness(wav.T.astype(np.float64))
    assert measure_lufs(wav, rate_hz) == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("duration_s", [0.05, 0.39, 0.4, 0.46, 5.04, 5.08, 5.11])
def test_clips_of_any_length_have_pyloudnorms_loudness_where_they_count_whole(duration_s):
    wav = noise(3, duration_s, 22050)
    meter = pyloudnorm.Meter(22050, block_size=min(0.4, wav.shape[1] / 22050))
    expected = meter.integrated_loudness(wav.T.astype(np.float64))
    assert measure_lufs(wav, 22050, whole_clip=True) == pytest.approx(expected, abs=1e-6)
