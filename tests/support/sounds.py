"""Synthetic sounds, and measures of their pitch and level."""

import numpy as np

RATE_HZ = 44100
"""Sample rate of `music`."""


def tone(frequency_hz: float, duration_s: float, rate_hz: int, amplitude: float = 0.3) -> np.ndarray:
    """Return a sine, float32 (1, samples)."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (amplitude * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)[None]


def noise(duration_s: float, rate_hz: int, seed: int = 0, amplitude: float = 0.1) -> np.ndarray:
    """Return white noise, float32 (1, samples)."""
    samples = round(duration_s * rate_hz)
    return (amplitude * np.random.default_rng(seed).standard_normal((1, samples))).astype(np.float32)


def music(seed: int, duration_s: float = 12.0) -> np.ndarray:
    """Return notes of random pitch and length with a little noise, which change enough for a fingerprint.

    float32 (1, samples) at `RATE_HZ`.
    """
    draw = np.random.default_rng(seed)
    wav = 0.003 * draw.standard_normal(round(duration_s * RATE_HZ))
    for start_s in np.arange(0, duration_s - 1, 0.21):
        length = round(draw.uniform(0.2, 0.9) * RATE_HZ)
        time_s = np.arange(length) / RATE_HZ
        note_hz = 110 * 2 ** (draw.integers(0, 36) / 12)
        note = sum(np.sin(2 * np.pi * note_hz * k * time_s) / k for k in range(1, 9)) * np.exp(-4 * time_s)
        start = round(start_s * RATE_HZ)
        wav[start : start + length] += 0.08 * note[: len(wav) - start]
    return wav[None].astype(np.float32)


def pitch_hz(channel: np.ndarray, rate_hz: int) -> float:
    """Return the strongest frequency in (samples,)."""
    spectrum = np.abs(np.fft.rfft(channel * np.hanning(len(channel))))
    return float(spectrum.argmax() * rate_hz / len(channel))


def level_db(channel: np.ndarray) -> float:
    """Return the RMS level of the middle half of (samples,) in dB."""
    middle = channel[len(channel) // 4 : 3 * len(channel) // 4]
    return float(20 * np.log10(np.sqrt(np.mean(np.square(middle, dtype=np.float64))) + 1e-12))
