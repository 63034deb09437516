"""Spectrogram images on disk: PNG files that say how they were made.

A mono spectrogram is written as 8-bit grey, less than half the size of the original's RGB with three equal channels: the
original's decoder and the common image trainers make RGB of whatever they read.
"""

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from PIL.PngImagePlugin import PngInfo

from riffusion_train.audio.codec import EncodedClip
from riffusion_train.audio.mel import HTK_CORNER_HZ
from riffusion_train.config.errors import InputError
from riffusion_train.config.spectrogram import Channels, Rounding, SpectrogramConfig, from_data, to_data

TEXT_KEY = "spectrogram"
"""The PNG text that holds the codec's parameters and the maximum, as JSON."""

# The original's EXIF tags.
_RATE_HZ, _STEREO, _STEP_MS, _WINDOW_MS, _PADDED_MS = 11000, 11005, 11010, 11020, 11030
_BANDS, _F_MIN_HZ, _F_MAX_HZ, _POWER, _MAX_VALUE = 11040, 11050, 11060, 11070, 11080

_DECODE_MARGIN_PERCENT = 112
"""Where the decoder's Nyquist frequency must lie at least, in percent of the top band's upper edge."""


@dataclasses.dataclass(frozen=True)
class LoadedImage:
    """An image file and what it says about itself.

    Attributes:
        image: uint8, (height, width) where all colours are equal, else (height, width, 3).
        config: The codec's parameters; None where the file does not give them.
        max_value: The magnitude of black; None where the file does not give it.
        texts: All other PNG texts.
    """

    image: np.ndarray
    config: SpectrogramConfig | None
    max_value: float | None
    texts: dict[str, str]


def save_image(
    path: Path, encoded: EncodedClip, config: SpectrogramConfig, texts: dict[str, str] | None = None
) -> None:
    """Write a PNG that carries its codec: as a PNG text and, where the original's EXIF tags can express it, as those.

    The EXIF tags know the HTK scale and whole milliseconds only; for other parameters they would mislead the original's
    decoder and are left out. The file appears only when it is whole.
    """
    info = PngInfo()
    max_value = encoded.max_value
    info.add_text(TEXT_KEY, json.dumps({**to_data(config), "max_value": max_value}))
    for name, text in (texts or {}).items():
        info.add_text(name, text)
    exif = PIL.Image.Exif()
    exif.update(_exif_tags(config, max_value))
    partial = path.with_name(f".{path.name}.partial")
    try:
        PIL.Image.fromarray(encoded.image).save(partial, "PNG", pnginfo=info, exif=exif)
        partial.replace(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def load_image(path: Path) -> LoadedImage:
    """Read an image and its codec: from the PNG text, else from the original's EXIF tags, else None.

    Raises:
        InputError: If the file is missing or not an image, or its description cannot be used.
    """
    try:
        with PIL.Image.open(path) as file:
            file.load()
            exif = dict(file.getexif())
            texts = {name: str(text) for name, text in getattr(file, "text", {}).items()}
            pixels = np.asarray(file.convert("RGB"))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (OSError, SyntaxError, ValueError, struct.error, PIL.Image.DecompressionBombError):
        raise InputError(f"{path}: cannot be read as an image") from None
    grey = bool((pixels[..., :1] == pixels[..., 1:]).all())
    config, max_value = _described(texts.pop(TEXT_KEY, None), exif, str(path))
    return LoadedImage(pixels[..., 0] if grey else pixels, config, max_value, texts)


def _described(text: str | None, exif: dict[int, Any], where: str) -> tuple[SpectrogramConfig | None, float | None]:
    if text is not None:
        try:
            data = json.loads(text)
        except ValueError:
            raise InputError(f"{where}: its text '{TEXT_KEY}' is not valid JSON") from None
        config = from_data(data, where)
        max_value = data.get("max_value")
        return config, None if max_value is None else float(max_value)
    if _RATE_HZ not in exif:
        return None, None
    try:
        return _config_of_exif(exif), float(exif[_MAX_VALUE]) if _MAX_VALUE in exif else None
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise InputError(f"{where}: its EXIF tags {_RATE_HZ} to {_MAX_VALUE} are incomplete") from None


def _exif_tags(config: SpectrogramConfig, max_value: float) -> dict[int, Any]:
    lengths = (config.hop_length, config.win_length, config.n_fft)
    whole_ms = all(length * 1000 % config.rate_hz == 0 for length in lengths)
    whole_hz = config.f_min_hz == int(config.f_min_hz) and config.f_max_hz == int(config.f_max_hz)
    if config.mel_corner_hz != HTK_CORNER_HZ or not whole_ms or not whole_hz:
        return {}
    step_ms, window_ms, padded_ms = (length * 1000 // config.rate_hz for length in lengths)
    return {
        _RATE_HZ: config.rate_hz,
        _STEREO: int(config.channels is Channels.stereo),
        _STEP_MS: step_ms,
        _WINDOW_MS: window_ms,
        _PADDED_MS: padded_ms,
        _BANDS: config.n_mels,
        _F_MIN_HZ: int(config.f_min_hz),
        _F_MAX_HZ: int(config.f_max_hz),
        _POWER: config.power,
        _MAX_VALUE: max_value,
    }


def _config_of_exif(exif: dict[int, Any]) -> SpectrogramConfig:
    rate_hz = int(exif[_RATE_HZ])
    # Truncated as the original does it.
    hop_length, win_length, n_fft = (int(exif[tag] / 1000 * rate_hz) for tag in (_STEP_MS, _WINDOW_MS, _PADDED_MS))
    f_max_hz = float(exif[_F_MAX_HZ])
    # The lowest rate at which a hop is a whole number of samples and the top band has room.
    decode_hop = int(-(-2 * _DECODE_MARGIN_PERCENT * f_max_hz * hop_length // (100 * rate_hz)))
    if decode_hop >= hop_length or rate_hz * decode_hop % hop_length:
        decode_hop = hop_length
    decode_win = round(win_length * decode_hop / hop_length)
    config = SpectrogramConfig(
        name="exif",
        rate_hz=rate_hz,
        hop_length=hop_length,
        win_length=win_length,
        n_fft=n_fft,
        n_mels=int(exif[_BANDS]),
        f_min_hz=float(exif[_F_MIN_HZ]),
        f_max_hz=f_max_hz,
        power=float(exif[_POWER]),
        rounding=Rounding.truncate,
        channels=Channels.stereo if exif[_STEREO] else Channels.mono,
        decode_rate_hz=rate_hz * decode_hop // hop_length,
        decode_n_fft=decode_win + decode_win // 2,
    )
    original = SpectrogramConfig(channels=config.channels)
    return original if dataclasses.replace(config, name=original.name) == original else config
