"""What a codec will not keep of a sound, said before it is lost."""

from collections.abc import Sequence

import numpy as np

from riffusion_train.config.spectrogram import Channels, Scale, SpectrogramConfig

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


def clipping_warnings(images: Sequence[np.ndarray], config: SpectrogramConfig) -> list[str]:
    """Return whether moments of a sound were louder than black, which an absolute scale cuts off.

    Args:
        images: What was encoded, uint8 (n_mels, width) or (n_mels, width, 3).
        config: The codec.
    """
    if config.scale is not Scale.absolute:
        return []
    # Of three colours the first two are loudness, or the first is empty and the others are.
    first = 0 if config.channels is Channels.stereo_phase else 1
    planes = [image if image.ndim == 2 else image[..., first : first + 2].min(2) for image in images]
    cut = sum(int((plane == 0).any(0).sum()) for plane in planes)
    if not cut:
        return []
    total = sum(plane.shape[1] for plane in planes)
    return [
        f"{cut} of {total} columns reach black, the loudest that '{config.name}' draws; turn the sound down to keep them"
    ]
