import dataclasses

import numpy as np
import pytest
import torch
from support.sounds import noise, tone

from riffusion_train.audio.compare import BAND_EDGES_HZ, RATE_HZ, SoundDistance, compare_sounds, mel_power_db
from riffusion_train.runtime.errors import InputError

RATE = RATE_HZ


def distance(a: np.ndarray, b: np.ndarray, *, match_level: bool = True) -> SoundDistance:
    return compare_sounds(a, RATE, b, RATE, match_level=match_level)


def test_equal_sounds_have_no_distance():
    wav = np.concatenate([noise(1.0, RATE, seed=1), noise(1.0, RATE, seed=2)])
    found = dataclasses.asdict(distance(wav, wav))
    assert all(np.allclose(value, 0, atol=1e-5) for value in found.values()), found


def test_a_level_is_matched_unless_it_shall_be_kept():
    wav = noise(1.0, RATE)
    matched, kept = distance(wav, wav / 2), distance(wav, wav / 2, match_level=False)
    assert matched.gain_db == pytest.approx(6.0206, abs=1e-3)
    assert matched.log_mel_db == pytest.approx(0, abs=1e-3)
    assert kept.gain_db == 0
    assert kept.log_mel_db == pytest.approx(6.0206, abs=1e-3)  # noise: no cell is near the floor
    assert kept.band_level_db == pytest.approx([-6.0206] * (len(BAND_EDGES_HZ) - 1), abs=1e-3)
    assert kept.spectral_convergence == pytest.approx(0.5, abs=1e-5)
    assert kept.multi_resolution_stft == pytest.approx(0.5 + np.log(2), abs=1e-3)


def test_the_phase_does_not_count():
    wav = noise(1.0, RATE)
    assert distance(wav, -wav).spectral_convergence == pytest.approx(0, abs=1e-6)


def test_what_lies_above_10_khz_counts_for_the_wide_figure_alone():
    bins = np.fft.rfft(noise(2.0, RATE)[0])
    bins[np.fft.rfftfreq(2 * RATE, 1 / RATE) > 11500] = 0
    low = np.fft.irfft(bins)[None].astype(np.float32)
    found = distance(noise(2.0, RATE), low)
    assert found.log_mel_10k_db < 0.01
    assert found.log_mel_db > 3
    assert found.band_level_db[-1] < -3
    assert max(abs(level) for level in found.band_level_db[:-1]) < 0.01


def test_differences_80_db_below_the_loudest_cell_do_not_count():
    loud = tone(1000, 1.0, RATE, amplitude=0.5)
    loud *= np.hanning(loud.shape[1]).astype(np.float32)  # no clicks at the ends
    quiet = noise(1.0, RATE, amplitude=1e-7)
    assert distance(loud, loud + quiet).log_mel_db < 0.01


def test_the_error_is_that_of_the_band_where_it_sits():
    wav = noise(2.0, RATE, amplitude=0.05)
    added = distance(wav, wav + tone(200, 2.0, RATE, amplitude=0.5), match_level=False)
    assert int(np.argmax(added.band_log_mel_db)) == 1  # 100 to 300 Hz
    assert added.band_level_db[1] > 20
    assert abs(added.band_level_db[3]) < 0.1


def test_coherence_tells_wide_from_narrow():
    one, two = noise(2.0, RATE, seed=1), noise(2.0, RATE, seed=2)
    wide, narrow, opposite = np.concatenate([one, two]), np.concatenate([one, one]), np.concatenate([one, -one])
    assert distance(narrow, narrow).coherence_error == 0
    assert distance(narrow, opposite).coherence_error == pytest.approx(2, abs=1e-3)
    # Bands of few bins keep a random rest of coherence.
    assert distance(narrow, wide).coherence_error == pytest.approx(1, abs=0.1)
    assert distance(one, two).coherence_error is None


def test_a_mono_sound_counts_as_two_equal_channels():
    mono = noise(1.0, RATE)
    assert distance(np.concatenate([mono, mono]), mono).coherence_error == pytest.approx(0, abs=1e-6)


def test_rates_and_lengths_may_differ():
    at_48k = compare_sounds(tone(1000, 1.0, RATE), RATE, tone(1000, 1.5, 48000), 48000)
    assert at_48k.spectral_convergence < 0.02
    half = distance(tone(1000, 1.0, RATE), tone(1000, 0.5, RATE), match_level=False)
    assert half.spectral_convergence == pytest.approx(np.sqrt(0.5), abs=0.02)


def test_mel_power_puts_a_tone_where_it_belongs():
    wav = torch.from_numpy(tone(1000, 1.0, RATE))
    loudest = int(mel_power_db(wav)[0, :, 40].argmax())
    top = np.log10(1 + 16000 / 700)
    assert loudest == pytest.approx(np.log10(1 + 1000 / 700) / top * 129 - 1, abs=1)


@pytest.mark.parametrize(
    ("first", "second", "part"),
    [
        (np.zeros((1, 4000), np.float32), noise(0.1, RATE), "the first sound is silent"),
        (noise(0.1, RATE).repeat(3, 0), noise(0.1, RATE).repeat(2, 0), "3 and 2 channels"),
    ],
)
def test_what_cannot_be_measured_is_refused(first: np.ndarray, second: np.ndarray, part: str):
    with pytest.raises(InputError, match=part):
        distance(first, second)


def test_the_figures_of_silence_against_sound_are_finite():
    found = distance(noise(0.5, RATE), np.zeros((1, 10), np.float32))
    assert found.spectral_convergence == pytest.approx(1)
    assert np.isfinite(found.log_mel_db)
