"""Source sounds: read, resampled, encoded on the grid of the latents, and spliced with what was generated."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch

from riffusion_train.audio.codec.codec import SpectrogramCodec
from riffusion_train.audio.io.read import load_audio, resample
from riffusion_train.config.spectrogram import Channels, SpectrogramConfig
from riffusion_train.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Source:
    """A sound and its image.

    Attributes:
        wav: float32 (channels, samples) at the codec's rate, with the codec's number of channels.
        image: uint8 (n_mels, width) or (n_mels, width, 3), followed by silence up to the width that was asked for.
        max_value: The magnitude that black stands for.
        columns: Columns of the image that hold sound.
    """

    wav: np.ndarray
    image: np.ndarray
    max_value: float
    columns: int


def load_source(path: Path, codec: SpectrogramCodec, *, multiple: int, min_width: int) -> Source:
    """Read a sound.

    Args:
        path: The file.
        codec: What encodes it.
        multiple: The width of the image is a multiple of this, in columns.
        min_width: The image has at least as many columns.

    Raises:
        InputError: If the file cannot be read, or is silent from end to end.
    """
    wav = read_wav(path, codec)
    return encode_source(wav, codec, multiple=multiple, min_width=min_width)


def read_wav(path: Path, codec: SpectrogramCodec) -> np.ndarray:
    """Return the sound of a file at the codec's rate and with its channels, float32 (channels, samples).

    Raises:
        InputError: If the file cannot be read, or is silent from end to end.
    """
    loaded = load_audio(path)
    if not np.any(loaded.wav):
        raise InputError(f"{path}: is silent from end to end; give a file with sound in it")
    wav = resample(loaded.wav, loaded.rate_hz, codec.rate_hz)
    if codec.config.channels is Channels.mono:
        return wav.mean(axis=0, keepdims=True)
    return np.repeat(wav, 2, axis=0) if len(wav) == 1 else wav[:2]


def encode_source(wav: np.ndarray, codec: SpectrogramCodec, *, multiple: int, min_width: int) -> Source:
    """Return a sound with its image; arguments as of `load_source`."""
    encoded = codec.encode_long(wav)
    columns = min(wav.shape[1] // codec.config.hop_length + 1, encoded.image.shape[1])
    width = max(math.ceil(columns / multiple) * multiple, min_width)
    return Source(wav, padded(encoded.image[:, :columns], width), encoded.max_value, columns)


def padded(image: np.ndarray, width: int) -> np.ndarray:
    """Return an image followed by white, which is silence."""
    shape = (image.shape[0], width - image.shape[1], *image.shape[2:])
    return np.concatenate([image, np.full(shape, 255, np.uint8)], axis=1)


_WINDOW_S = 0.04


def splice(kept: np.ndarray, made: np.ndarray, share: np.ndarray, config: SpectrogramConfig) -> np.ndarray:
    """Return `kept` with parts of `made`, which fade into each other over a window of 40 ms.

    Their difference is weighted in the short-time Fourier transform and added to `kept`. Where no window reaches a part
    that is new, the samples of `kept` come back exactly.

    Args:
        kept: float32 (channels, samples).
        made: The same shape.
        share: How much of `made`, 0 to 1, (n_mels, columns) with the lowest band first; frequencies above and below the
            bands go with the outermost ones.
        config: The codec of these columns and bands.
    """
    size = 2 ** round(np.log2(_WINDOW_S * config.rate_hz))
    window = torch.hann_window(size)
    difference = torch.from_numpy(made - kept)
    spectrum = torch.stft(
        difference, size, size // 4, window=window, return_complex=True, pad_mode="constant"
    )  # (ch, f, t)
    # `share` on the grid of the transform: along time (n_mels, frames), then along frequency (size / 2 + 1, frames).
    frames_at = np.arange(spectrum.shape[-1]) * (size // 4) / config.hop_length
    bands_at = band_of(np.arange(size // 2 + 1) * config.rate_hz / size, config)
    columns = np.stack([np.interp(frames_at, np.arange(share.shape[1]), band) for band in share])
    weights = np.stack([np.interp(bands_at, np.arange(len(share)), frame) for frame in columns.T], axis=1)
    weighted = spectrum * torch.from_numpy(weights.astype(np.float32))
    added = torch.istft(weighted, size, size // 4, window=window, length=kept.shape[1])
    return kept + added.numpy()


def band_of(frequencies_hz: np.ndarray, config: SpectrogramConfig) -> np.ndarray:
    """Return the positions of frequencies among the centres of the bands: 0 is the lowest band."""

    def warp(hz: np.ndarray | float) -> np.ndarray | float:
        return np.log1p(np.asarray(hz) / config.mel_corner_hz)

    low, high = warp(config.f_min_hz), warp(config.f_max_hz)
    return np.asarray((warp(frequencies_hz) - low) / (high - low) * (config.n_mels + 1) - 1)
