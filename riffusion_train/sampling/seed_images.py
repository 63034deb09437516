"""Seed images: what a walk starts from, so that all of its clips share one beat or one texture.

Ours are composed by the functions below, for any codec, as loops of exactly one clip; any image or sound can be one.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from riffusion_train.audio.codec.codec import SpectrogramCodec
from riffusion_train.audio.codec.image_file import load_image
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.sources import read_wav

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
