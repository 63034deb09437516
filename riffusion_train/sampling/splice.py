"""Two sounds of one length joined along time and frequency."""

import numpy as np
import torch

from riffusion_train.config.spectrogram import SpectrogramConfig

_WINDOW_S = 0.04


def splice(kept: np.ndarray, made: np.ndarray, share: np.ndarray, config: SpectrogramConfig) -> np.ndarray:
    """Return `kept` with parts of `made` in it, which fade into each other over a window of 40 ms.

    What is added is the difference of the two where `share` is not zero. Where no window reaches a part that is
    made, the samples of `kept` come back exactly.

    Args:
        kept: float32 (channels, samples).
        made: The same shape.
        share: How much of `made` there is, 0 to 1, (n_mels, columns) with the lowest band first; frequencies above and below
            the bands go with the outermost ones.
        config: The codec that the columns and bands are of.
    """
    size = 2 ** round(np.log2(_WINDOW_S * config.rate_hz))
    window = torch.hann_window(size)
    difference = torch.from_numpy(made - kept)
    spectrum = torch.stft(difference, size, size // 4, window=window, return_complex=True, pad_mode="constant")
    frames_at = np.arange(spectrum.shape[-1]) * (size // 4) / config.hop_length
    bands_at = band_of(np.arange(size // 2 + 1) * config.rate_hz / size, config)
    columns = np.stack([np.interp(frames_at, np.arange(share.shape[1]), band) for band in share])
    weights = np.stack([np.interp(bands_at, np.arange(len(share)), frame) for frame in columns.T], axis=1)
    weighted = spectrum * torch.from_numpy(weights.astype(np.float32))
    added = torch.istft(weighted, size, size // 4, window=window, length=kept.shape[1])
    return kept + added.numpy()


def band_of(frequencies_hz: np.ndarray, config: SpectrogramConfig) -> np.ndarray:
    """Return the place of frequencies among the centres of the bands: 0 is the lowest band."""

    def warp(hz: np.ndarray | float) -> np.ndarray | float:
        return np.log1p(np.asarray(hz) / config.mel_corner_hz)

    low, high = warp(config.f_min_hz), warp(config.f_max_hz)
    return np.asarray((warp(frequencies_hz) - low) / (high - low) * (config.n_mels + 1) - 1)
