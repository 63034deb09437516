"""How an image file says by which codec it was made: our PNG text, or the EXIF tags of the original Riffusion."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from riffusion_train.audio.mel import HTK_CORNER_HZ
from riffusion_train.config.spectrogram import Channels, Rounding, Scale, SpectrogramConfig, from_data, to_data
from riffusion_train.runtime.errors import InputError

TEXT_KEY = "spectrogram"
"""The PNG text that holds the codec's parameters and the maximum, as JSON."""

# The original's EXIF tags.
_RATE_HZ, _STEREO, _STEP_MS, _WINDOW_MS, _PADDED_MS = 11000, 11005, 11010, 11020, 11030
_BANDS, _F_MIN_HZ, _F_MAX_HZ, _POWER, _MAX_VALUE = 11040, 11050, 11060, 11070, 11080

_DECODE_MARGIN_PERCENT = 112
"""Where the decoder's Nyquist frequency must lie at least, in percent of the top band's upper edge."""

# Beyond these, numbers in a file are damage: a filter bank for them would fill the memory before anything else noticed.
_LARGEST = {"rate_hz": 768_000, "n_fft": 1 << 18, "n_mels": 8192, "width_px": 1 << 20, "decode_n_fft": 1 << 18}
_MOST_WEIGHTS = 1 << 28

_MEND = "name the codec yourself with preset="


def text_of(config: SpectrogramConfig, max_value: float) -> str:
    """Return the PNG text for an image of this codec and maximum."""
    return json.dumps({**to_data(config), "max_value": max_value})


def exif_tags_of(config: SpectrogramConfig, max_value: float) -> dict[int, Any]:
    """Return the original's EXIF tags; none where they cannot express the codec.

    They know a scale per image, the HTK scale, whole milliseconds and whole Hertz only; for other parameters they would
    mislead the original's decoder.
    """
    lengths = (config.hop_length, config.win_length, config.n_fft)
    whole_ms = all(length * 1000 % config.rate_hz == 0 for length in lengths)
    whole_hz = config.f_min_hz == int(config.f_min_hz) and config.f_max_hz == int(config.f_max_hz)
    plain = config.scale is Scale.per_image and config.channels is not Channels.stereo_phase
    if not plain or config.mel_corner_hz != HTK_CORNER_HZ or not whole_ms or not whole_hz:
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


def read_description(
    text: str | None, exif: Mapping[int, Any], height_px: int, where: str
) -> tuple[SpectrogramConfig | None, float | None]:
    """Return the codec and the maximum that a file names: from the PNG text, else from the EXIF tags, else None.

    Args:
        text: The PNG text `TEXT_KEY`, where there is one.
        exif: The file's EXIF tags.
        height_px: Height of the image, which must be the codec's number of bands.
        where: Name of the file, for messages.

    Raises:
        InputError: If the description is damaged or does not fit the image.
    """
    if text is not None:
        source = f"text '{TEXT_KEY}'"
        config, max_value = _from_text(text, source, where)
    elif _RATE_HZ in exif:
        source = f"EXIF tags {_RATE_HZ} to {_MAX_VALUE}"
        config, max_value = _from_exif(exif, source, where)
    else:
        return None, None
    problem = _problem(config, max_value)
    if problem is not None:
        raise InputError(f"{where}: its {source} cannot be right ({problem}); {_MEND}")
    if config.n_mels != height_px:
        raise InputError(
            f"{where}: is {height_px} px high, but its {source} say {config.n_mels}: it was resized or cropped; "
            f"bring it back to {config.n_mels} px, or {_MEND}"
        )
    return config, max_value


def _from_text(text: str, source: str, where: str) -> tuple[SpectrogramConfig, float | None]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: its {source} is not valid JSON; {_MEND}") from None
    try:
        config = from_data(data, where)
    except (TypeError, AttributeError):
        raise InputError(f"{where}: its {source} is not a spectrogram description; {_MEND}") from None
    max_value = data.get("max_value")
    if max_value is None:
        return config, None
    return config, float(max_value) if _is_number(max_value) else math.nan


def _from_exif(exif: Mapping[int, Any], source: str, where: str) -> tuple[SpectrogramConfig, float | None]:
    try:
        return _config_of_exif(exif), float(exif[_MAX_VALUE]) if _MAX_VALUE in exif else None
    except KeyError as error:
        raise InputError(f"{where}: its {source} are incomplete (no {error}); {_MEND}") from None
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise InputError(f"{where}: its {source} are no numbers that make a codec; {_MEND}") from None


def _config_of_exif(exif: Mapping[int, Any]) -> SpectrogramConfig:
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


def _problem(config: SpectrogramConfig, max_value: float | None) -> str | None:
    """Return which number is no number, or far out of range; contradictions are left to `make_codec`."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type in (int, "int") and not (type(value) is int and 0 < value <= _LARGEST.get(field.name, 1 << 18)):
            return f"{field.name}={value!r}"
        if field.type in (float, "float") and not (_is_number(value) and 0 <= value <= 1e12):
            return f"{field.name}={value!r}"
    if config.n_fft * config.n_mels > _MOST_WEIGHTS:
        return f"n_fft={config.n_fft} with n_mels={config.n_mels}"
    if max_value is not None and not (math.isfinite(max_value) and max_value >= 0):
        return f"max_value={max_value}"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
