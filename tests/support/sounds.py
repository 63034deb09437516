"""Sounds made by formula, for the tests of the codec and its files."""

import numpy as np


def tone(frequency_hz: float, duration_s: float, rate_hz: int, amplitude: float = 0.3) -> np.ndarray:
    """Return a sine, float32 (1, samples)."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (amplitude * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)[None]


def noise(duration_s: float, rate_hz: int, seed: int = 0, amplitude: float = 0.1) -> np.ndarray:
    """Return white noise, float32 (1, samples)."""
    samples = round(duration_s * rate_hz)
    return (amplitude * np.random.default_rng(seed).standard_normal((1, samples))).astype(np.float32)


def pitch_hz(channel: np.ndarray, rate_hz: int) -> float:
    """Return the strongest frequency of (samples,)."""
    spectrum = np.abs(np.fft.rfft(channel * np.hanning(len(channel))))
    return float(spectrum.argmax() * rate_hz / len(channel))


def level_db(channel: np.ndarray) -> float:
    """Return the root mean square of the middle half of (samples,) in decibels."""
    middle = channel[len(channel) // 4 : 3 * len(channel) // 4]
    return float(20 * np.log10(np.sqrt(np.mean(np.square(middle, dtype=np.float64))) + 1e-12))
