"""Seed images: pictures that a walk starts from, which give all of its clips one beat or one texture.

Ours are composed by the functions below, for the codec at hand, as loops of exactly one clip; any picture or sound can be one.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from riffusion_train.audio.codec.codec import SpectrogramCodec
from riffusion_train.audio.io.write import FORMATS
from riffusion_train.runtime.errors import InputError

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def load_seed_image(name: str, codec: SpectrogramCodec) -> np.ndarray:
    """Return a seed image, uint8 (n_mels, width_px) or with three colours.

    Args:
        name: One of `SEED_IMAGES`, or a file: a picture of the codec's size, or a sound, whose first clip is taken.
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
    if path.suffix.lower() not in _PICTURES:
        return seed_of_sound(path, codec)
    from riffusion_train.audio.codec.image_file import load_image

    image = load_image(path, use_description=False).image
    if image.shape[:2] != (config.n_mels, config.width_px):
        raise InputError(
            f"{path}: is {image.shape[1]}x{image.shape[0]} px; a seed image of this model has "
            f"{config.width_px}x{config.n_mels}; make one of a sound with --seed-image FILE.wav"
        )
    return image


def seed_of_sound(path: Path, codec: SpectrogramCodec) -> np.ndarray:
    """Return the picture of the first clip of a sound, repeated where it is shorter."""
    from riffusion_train.sampling.sources import read_wav

    if path.suffix.lower() in FORMATS or path.is_file():
        wav = read_wav(path, codec)
        samples = codec.config.width_px * codec.config.hop_length
        return encode_round(np.resize(wav, (len(wav), samples)) if wav.shape[1] < samples else wav[:, :samples], codec)
    raise InputError(f"{path}: no such file")


def make_seed_image(name: str, codec: SpectrogramCodec) -> np.ndarray:
    """Compose the seed image of that name for a codec."""
    config = codec.config
    samples = config.width_px * config.hop_length
    phase = np.arange(samples) / samples  # once round is one clip
    wav = SEED_IMAGES[name](phase, samples / config.rate_hz)
    return encode_round((0.5 * wav / np.abs(wav).max()).astype(np.float32)[None], codec)


def encode_round(wav: np.ndarray, codec: SpectrogramCodec) -> np.ndarray:
    """Return the picture of a loop of `width_px` hops, drawn as it goes round."""
    width = wav.shape[1] // codec.config.hop_length
    drawn = codec.encode_long(np.concatenate([wav, wav, wav], axis=1)).image
    return np.ascontiguousarray(drawn[:, width : 2 * width])


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
    for place, step in enumerate(steps):
        age_s = ((phase - place / len(steps)) % 1) * clip_s
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
"""Our own, by name: what composes a loop from its phase, 0 to 1 over a clip, and the clip's length in seconds."""
