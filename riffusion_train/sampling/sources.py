"""What clips are made from: noise, source sounds, and the seed images of a walk.

Noise is a function of a seed and a position, independent of what was drawn before and of what else is made. Source sounds are
read, resampled, encoded on the grid of the latents, and spliced with what was generated. All clips of a walk start from one
seed image, and so share one beat or one texture. Ours are composed by the functions below, for any codec, as loops of exactly
one clip; any image or sound can be one.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from riffusion_train.audio.codec import SpectrogramCodec
from riffusion_train.audio.image_file import load_image
from riffusion_train.audio.read import load_audio, resample
from riffusion_train.config.spectrogram import Channels, SpectrogramConfig
from riffusion_train.dataset.order import normal
from riffusion_train.runtime.errors import InputError

_PARALLEL = 0.9995
"""Cosine above which two tensors count as parallel: the sine of their angle, a divisor, is too small."""


def initial_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Return the noise of a seed, float32 (C, h, w): the same on every device and in every batch."""
    return torch.from_numpy(normal(seed, "initial noise", shape))


def long_noise(seed: int, shape: tuple[int, int, int], width: int, *, first: int = 0) -> Tensor:
    """Return noise of any width, (C, h, width), that begins with `initial_noise` and continues block by block.

    Wider noise begins with the narrower one.

    Args:
        seed: The seed.
        shape: Shape of a block, (C, h, w).
        width: Number of columns.
        first: First column.
    """
    block = shape[2]
    # Only the blocks that [first, first + width) touches are drawn, each by its own index.
    blocks = range(first // block, -(-(first + width) // block))
    drawn = [torch.from_numpy(normal(seed, "initial noise", shape, index)) for index in blocks]
    start = first - blocks[0] * block
    return torch.cat(drawn, -1)[..., start : start + width]


def step_noise(seed: int, step: int, shape: tuple[int, int, int], width: int) -> Tensor:
    """Return the noise that a solver adds in a step, (C, h, width): a function of the seed, the step and the column.

    So a step is the same in a batch, in a stream, and at the beginning of a longer canvas.

    Args:
        seed: The seed.
        step: The step's number among all from pure noise to the image.
        shape: Shape of a block, (C, h, w).
        width: Number of columns.
    """
    blocks = range(-(-width // shape[2]))
    drawn = [torch.from_numpy(normal(seed, "step noise", shape, step, block)) for block in blocks]
    return torch.cat(drawn, -1)[..., :width]


def slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Interpolate between two tensors on the sphere (Shoemake 1985), which keeps the length.

    Nearly parallel ones are interpolated on a straight line, as in the original Riffusion.

    Args:
        one: Any tensor.
        other: One of the same shape.
        share: 0 is `one`, 1 is `other`.
    """
    if share == 0:
        return one
    cosine = float((one * other).sum() / (one.norm() * other.norm()).clamp(min=1e-12))
    if abs(cosine) > _PARALLEL:
        return torch.lerp(one, other, share)
    angle = math.acos(cosine)
    return (math.sin((1 - share) * angle) * one + math.sin(share * angle) * other) / math.sin(angle)


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


_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def load_seed_image(name: str, codec: SpectrogramCodec) -> np.ndarray:
    """Return a seed image, uint8 (n_mels, width_px) or (n_mels, width_px, 3).

    Args:
        name: One of `SEED_IMAGES`, or a file: an image of the codec's size, or a sound, which is cut to one clip.
        codec: The codec.

    Raises:
        InputError: If there is no such image, or it has another size.
    """
    if name in SEED_IMAGES:
        return make_seed_image(name, codec)
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(f"seed_image={name}: no such file; choose one, or from: {', '.join(SEED_IMAGES)}")
    config = codec.config
    if path.suffix.lower() not in _IMAGE_SUFFIXES:
        return make_seed_image_of_sound(path, codec)
    image = load_image(path, use_description=False).image
    if image.shape[:2] != (config.n_mels, config.width_px):
        raise InputError(
            f"{path}: is {image.shape[1]}x{image.shape[0]} px; a seed image of this model has "
            f"{config.width_px}x{config.n_mels}; make one of a sound with --seed-image FILE.wav"
        )
    return image


def make_seed_image_of_sound(path: Path, codec: SpectrogramCodec) -> np.ndarray:
    """Return the image of the first clip's length of a sound, which is repeated if it is shorter.

    Raises:
        InputError: If the file cannot be read, or is silent from end to end.
    """
    wav = read_wav(path, codec)
    samples = codec.config.width_px * codec.config.hop_length
    return encode_loop(np.resize(wav, (len(wav), samples)) if wav.shape[1] < samples else wav[:, :samples], codec)


def make_seed_image(name: str, codec: SpectrogramCodec) -> np.ndarray:
    """Compose the seed image of that name for a codec."""
    config = codec.config
    samples = config.width_px * config.hop_length
    phase = np.arange(samples) / samples  # 0 to 1 over one clip
    wav = SEED_IMAGES[name](phase, samples / config.rate_hz)
    return encode_loop((0.5 * wav / np.abs(wav).max()).astype(np.float32)[None], codec)


def encode_loop(wav: np.ndarray, codec: SpectrogramCodec) -> np.ndarray:
    """Return the image of a loop of `width_px` hops, in which the windows at its ends see the other end."""
    width = wav.shape[1] // codec.config.hop_length
    thrice = codec.encode_long(np.concatenate([wav, wav, wav], axis=1)).image
    return np.ascontiguousarray(thrice[:, width : 2 * width])


def _beats(phase: np.ndarray, clip_s: float) -> np.ndarray:
    """Two bars of four beats: a low drum on every beat, a bright one on the second and fourth, a hat on the eighths."""
    return (
        _drum(phase, clip_s, 8, 0, 60.0)
        + 0.5 * _noise_hits(phase, clip_s, 4, 1 / 8, 18.0)
        + 0.2 * _noise_hits(phase, clip_s, 16, 0, 60.0)
    )


def _half_time(phase: np.ndarray, clip_s: float) -> np.ndarray:
    """A slow beat: a drum four times, an echo between."""
    return _drum(phase, clip_s, 4, 0, 50.0) + 0.4 * _noise_hits(phase, clip_s, 2, 1 / 4, 10.0)


def _plucked(phase: np.ndarray, clip_s: float) -> np.ndarray:
    """Sixteen plucked notes of a pentatonic scale, up and down."""
    steps = (0, 3, 5, 7, 10, 12, 10, 7, 5, 3, 0, -2, 0, 3, 7, 5)
    wav = np.zeros_like(phase)
    for index, step in enumerate(steps):
        age_s = ((phase - index / len(steps)) % 1) * clip_s
        hz = 220 * 2 ** (step / 12)
        wav += np.exp(-6 * age_s) * sum(np.sin(2 * np.pi * hz * n * age_s) / n**1.5 for n in range(1, 7))
    return wav


def _pad(phase: np.ndarray, clip_s: float) -> np.ndarray:
    """A held chord whose voices swell one after the other; each has whole turns in a clip."""
    wav = np.zeros_like(phase)
    for voice, hz in enumerate((110, 165, 220, 277, 330, 440)):
        turns = round(hz * clip_s)
        swell = 0.6 + 0.4 * np.sin(2 * np.pi * (phase + voice / 6))
        wav += swell * sum(np.sin(2 * np.pi * turns * n * phase) / n**2 for n in range(1, 5))
    return wav


def _drum(phase: np.ndarray, clip_s: float, hits: int, offset: float, hz: float) -> np.ndarray:
    age_s = ((phase - offset) * hits % 1) / hits * clip_s
    return np.exp(-9 * age_s) * np.sin(2 * np.pi * (hz * age_s + 3 * (1 - np.exp(-30 * age_s))))


def _noise_hits(phase: np.ndarray, clip_s: float, hits: int, offset: float, decay: float) -> np.ndarray:
    age_s = ((phase - offset) * hits % 1) / hits * clip_s
    noise = np.random.default_rng(0).standard_normal(len(phase))
    return np.exp(-decay * age_s) * np.diff(noise, prepend=noise[-1]) * 0.3


SEED_IMAGES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "beats": _beats,
    "half_time": _half_time,
    "plucked": _plucked,
    "pad": _pad,
}
"""Our own, by name: functions of the phase, 0 to 1 over a clip, and of the clip's length in seconds."""
