"""Music enough for fingerprints: notes by chance."""

import numpy as np
import numpy.typing as npt

RATE_HZ = 44100


def music(seed: int, duration_s: float = 12.0) -> npt.NDArray[np.float32]:
    """Notes of random pitch and length with a little noise: no tune, but as much change as one."""
    draw = np.random.default_rng(seed)
    wav = 0.003 * draw.standard_normal(round(duration_s * RATE_HZ))
    for start in np.arange(0, duration_s - 1, 0.21):
        length = round(draw.uniform(0.2, 0.9) * RATE_HZ)
        time_s = np.arange(length) / RATE_HZ
        pitch_hz = 110 * 2 ** (draw.integers(0, 36) / 12)
        note = sum(np.sin(2 * np.pi * pitch_hz * k * time_s) / k for k in range(1, 9)) * np.exp(-4 * time_s)
        at = round(start * RATE_HZ)
        wav[at : at + length] += 0.08 * note[: len(wav) - at]
    return wav[None].astype(np.float32)
