import dataclasses

import numpy as np
import pytest

from riffusion_train.listening.heard import (
    MEASURES,
    SoundMeasures,
    measure_bandwidth,
    measure_repetition,
    measure_sound,
    silent_share,
    sound_warnings,
)

RATE_HZ = 32000


def noise(duration_s: float, *, top_hz: float = RATE_HZ / 2, seed: int = 0) -> np.ndarray:
    """White noise up to a frequency, (1, samples)."""
    samples = round(duration_s * RATE_HZ)
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(0, 0.1, samples))
    spectrum[np.fft.rfftfreq(samples, 1 / RATE_HZ) > top_hz] = 0
    return np.fft.irfft(spectrum, samples).astype(np.float32)[None]


def bursts(count: int, *, seeds: list[int]) -> np.ndarray:
    """A second each of decaying noise, (1, samples); the seeds take turns."""
    decay = np.exp(-np.linspace(0, 9, RATE_HZ)).astype(np.float32)
    parts = [noise(1.0, top_hz=1000 + 900 * seed, seed=seed) * decay for seed in (seeds * count)[:count]]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("top_hz", [3000, 11000])
def test_bandwidth_is_where_the_energy_ends(top_hz: float) -> None:
    assert measure_bandwidth(noise(2.0, top_hz=top_hz), RATE_HZ) == pytest.approx(top_hz, abs=150)
    both = np.concatenate([noise(2.0, top_hz=500), noise(2.0, top_hz=top_hz)])
    assert measure_bandwidth(both, RATE_HZ) == pytest.approx(top_hz, abs=150)


def test_a_dc_offset_is_measured_and_does_not_hide_the_bandwidth() -> None:
    wav = noise(2.0, top_hz=5000)
    shifted = measure_sound(np.concatenate([wav, wav + 0.25]).astype(np.float32), RATE_HZ)
    assert shifted.dc_offset == pytest.approx(0.25, abs=0.01)
    assert shifted.bandwidth_hz == pytest.approx(5000, abs=150)


def test_silence_is_the_share_of_quiet_frames() -> None:
    wav = noise(2.0)
    wav[:, : RATE_HZ // 2] = 1e-4
    assert silent_share(wav, RATE_HZ) == pytest.approx(0.25, abs=0.03)


def test_a_repeated_second_repeats_and_different_ones_do_not() -> None:
    assert measure_repetition(bursts(5, seeds=[3]), RATE_HZ) == pytest.approx(1.0, abs=0.02)
    others = measure_repetition(np.concatenate([noise(1.3, seed=1) * 0.1, bursts(4, seeds=[1, 9, 4, 13])], 1), RATE_HZ)
    assert others is not None and others < 0.9


def test_repetition_is_left_out_where_it_means_nothing() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(4 * RATE_HZ) / RATE_HZ).astype(np.float32)[None]
    for wav in (tone, np.zeros_like(tone), noise(1.5)):
        assert measure_repetition(wav, RATE_HZ) is None


def test_digital_silence_has_no_level_and_no_bandwidth() -> None:
    measured = measure_sound(np.zeros((2, RATE_HZ), np.float32), RATE_HZ)
    assert (measured.loudness_lufs, measured.peak_dbfs, measured.bandwidth_hz) == (None, None, None)
    assert measured.silent_share == 1.0 and measured.clipped_share == 0.0


def test_one_sample_can_be_measured() -> None:
    assert measure_sound(np.full((1, 1), 0.5, np.float32), RATE_HZ).peak_dbfs == pytest.approx(-6.02, abs=0.01)


def test_every_measure_but_the_duration_has_a_label() -> None:
    names = {field.name for field in dataclasses.fields(SoundMeasures)}
    assert {measure.name for measure in MEASURES} == names - {"duration_s"}


def test_silent_short_and_clipped_clips_are_counted() -> None:
    loud = np.clip(20 * noise(4.0), -1, 1)
    clips = [np.zeros((1, 4 * RATE_HZ), np.float32), noise(2.0), loud, noise(4.0)]
    first, second, third = sound_warnings([measure_sound(clip, RATE_HZ) for clip in clips], 3.0)
    assert first.startswith("1 of 4 clips are silent") and second.startswith("1 of 4 clips are shorter than 3 s")
    assert third.startswith("1 of 4 clips are clipped")
