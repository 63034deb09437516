"""Sounds that clips are made from: read, resampled, encoded, laid on the grid of the latents, and joined again."""

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
    """A sound and its picture.

    Attributes:
        wav: float32 (channels, samples) at the codec's rate, with the codec's number of channels.
        image: The picture, followed by silence up to the width asked for.
        max_value: The magnitude of black.
        columns: Columns of the picture that hold sound.
    """

    wav: np.ndarray
    image: np.ndarray
    max_value: float
    columns: int


def load_source(path: Path, codec: SpectrogramCodec, *, multiple: int, least: int) -> Source:
    """Read a sound.

    Args:
        path: The file.
        codec: Draws it.
        multiple: What the width of the picture is to be a multiple of, in columns.
        least: Its least width.

    Raises:
        InputError: If the file cannot be read, or is silent from end to end.
    """
    wav = read_wav(path, codec)
    return draw_source(wav, codec, multiple=multiple, least=least)


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


def draw_source(wav: np.ndarray, codec: SpectrogramCodec, *, multiple: int, least: int) -> Source:
    """Return a sound with its picture; arguments as of `load_source`."""
    drawn = codec.encode_long(wav)
    columns = min(wav.shape[1] // codec.config.hop_length + 1, drawn.image.shape[1])
    width = max(math.ceil(columns / multiple) * multiple, least)
    return Source(wav, widened(drawn.image[:, :columns], width), drawn.max_value, columns)


def widened(image: np.ndarray, width: int) -> np.ndarray:
    """Return a picture followed by white, which is silence."""
    shape = (image.shape[0], width - image.shape[1], *image.shape[2:])
    return np.concatenate([image, np.full(shape, 255, np.uint8)], axis=1)


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
