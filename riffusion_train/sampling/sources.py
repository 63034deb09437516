"""Sounds that clips are made from: read, brought to the codec's rate, drawn, and laid on the grid of the latents."""

import dataclasses
import math
from pathlib import Path

import numpy as np

from riffusion_train.audio.codec.codec import SpectrogramCodec
from riffusion_train.audio.io.read import load_audio, resample
from riffusion_train.config.spectrogram import Channels
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
