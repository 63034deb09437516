"""What a codec will not keep of a sound, said before it is lost."""

import numpy as np

from riffusion_train.config.spectrogram import Channels, SpectrogramConfig

_CANCELLED_DB = 12.0


def sound_warnings(wav: np.ndarray, rate_hz: int, config: SpectrogramConfig) -> list[str]:
    """Return what a codec loses of a sound beyond its usual error, one line each.

    Args:
        wav: (channels, samples).
        rate_hz: Its sample rate.
        config: The codec.
    """
    found = []
    duration_s, window_s = wav.shape[1] / rate_hz, config.win_length / config.rate_hz
    if duration_s < window_s:
        found.append(f"lasts {duration_s:.3f} s, less than one window ({window_s:.3f} s); silence is added")
    if rate_hz / 2 < 0.9 * config.f_max_hz:
        found.append(
            f"at {rate_hz} Hz holds nothing above {rate_hz / 2000:g} kHz; the image goes to {config.f_max_hz / 1000:g} kHz"
        )
    if len(wav) > 2 and config.channels is not Channels.mono:
        found.append(f"has {len(wav)} channels, of which the first two are kept; mix it down to stereo to keep all")
    if len(wav) > 1 and config.channels is Channels.mono:
        mixed, apart = (float(np.square(part, dtype=np.float64).mean()) for part in (wav.mean(0), wav))
        if apart > 0 and 10 * np.log10(max(mixed / apart, 1e-12)) < -_CANCELLED_DB:
            found.append("its channels cancel each other in the mono mix; use channels=stereo, or turn one around")
    if float(np.abs(wav).max(initial=0)) > 1.001:
        found.append(
            f"has peaks of {float(np.abs(wav).max()):.2f}, beyond full scale; they are kept, but a player clips them"
        )
    return found
