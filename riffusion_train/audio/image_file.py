"""Spectrogram images as PNG files that carry their codec: in our PNG text, or in the original Riffusion's EXIF tags."""

import dataclasses
import json
import math
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import PIL.Image
from zlib_ng import zlib_ng as zlib

from riffusion_train.audio.codec import EncodedClip
from riffusion_train.audio.mel import HTK_CORNER_HZ
from riffusion_train.config.spectrogram import Channels, Rounding, Scale, SpectrogramConfig, from_data, to_data
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_atomically

MAX_PIXELS = 1 << 27
"""Largest number of pixels of an image, 44 minutes at 512 bands and 100 columns a second."""

_MOSTLY_BLACK = 64
"""Mean level below which an image is probably inverted."""
_LARGEST_SIDE = 1 << 20


@dataclasses.dataclass(frozen=True)
class LoadedImage:
    """An image file and its description of itself.

    Attributes:
        image: uint8, (height, width) where all colours are equal, else (height, width, 3).
        config: The codec's parameters; None where the file does not say.
        max_value: The magnitude of black; None where the file does not say.
        texts: All other PNG texts.
        warnings: What was lost in the file or in reading it, one warning each, without the file's name.
    """

    image: np.ndarray
    config: SpectrogramConfig | None
    max_value: float | None
    texts: dict[str, str]
    warnings: tuple[str, ...] = ()


def save_image(
    path: Path, encoded: EncodedClip, config: SpectrogramConfig, texts: dict[str, str] | None = None
) -> None:
    """Write a PNG that carries its codec: in a PNG text and, where they can express it, in the original's EXIF tags.

    The file appears only when it is complete.

    Raises:
        InputError: If it cannot be written, or would be larger than `load_image` reads.
    """
    height, width = encoded.image.shape[:2]
    require_size(width, height, str(path))
    exif = PIL.Image.Exif()
    exif.update(exif_tags_of(config, encoded.max_value))
    all_texts = {TEXT_KEY: text_of(config, encoded.max_value), **(texts or {})}
    try:
        write_atomically(path, png_bytes(encoded.image, all_texts, exif))
    except (FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError) as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def load_image(path: Path, *, use_description: bool = True) -> LoadedImage:
    """Read an image and its codec: from the PNG text, else from the original's EXIF tags, else None.

    Transparent parts become white, which is silence; 16-bit levels are rounded to 8; palettes become colours.

    Args:
        path: A file of any format that Pillow reads.
        use_description: Whether a description of the codec that cannot be used is an error; else it becomes a warning.

    Raises:
        InputError: If the file is missing, not an image or too large, or its description cannot be used.
    """
    notes: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with PIL.Image.open(path) as file:
                require_size(file.width, file.height, str(path))
                file.load()
                texts = {name: str(text) for name, text in getattr(file, "text", {}).items()}
                exif = _exif(file, notes)
                notes += _losses(file, path)
                pixels = _rgb(file)
        notes += {"its EXIF data is corrupt" for warning in caught if "EXIF" in str(warning.message)}
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except PIL.Image.DecompressionBombError:
        raise InputError(f"{path}: has more than {MAX_PIXELS} px, too many to read; cut it into slices") from None
    except (OSError, SyntaxError, ValueError, struct.error):
        raise InputError(f"{path}: cannot be read as an image") from None
    try:
        config, max_value = read_description(texts.pop(TEXT_KEY, None), exif, len(pixels), str(path))
    except InputError as error:
        if use_description:
            raise
        config, max_value = None, None
        notes.append(str(error).removeprefix(f"{path}: ").rpartition("; ")[0])
    if pixels.mean(dtype=np.float64) < _MOSTLY_BLACK:
        notes.append("is mostly black, which is loud here; if loud is bright in it, invert it")
    grey = bool((pixels[..., :1] == pixels[..., 1:]).all())
    return LoadedImage(pixels[..., 0] if grey else pixels, config, max_value, texts, tuple(notes))


def require_size(width: int, height: int, where: str) -> None:
    """Check that an image is not larger than what is read and written.

    Raises:
        InputError: If it is; the message says how to go on.
    """
    if width * height > MAX_PIXELS or max(width, height) > _LARGEST_SIDE:
        raise InputError(
            f"{where}: {width}x{height} px are more than {MAX_PIXELS} px or {_LARGEST_SIDE} on a side; "
            "cut it into slices (encode with slices=true)"
        )


def _exif(file: PIL.Image.Image, notes: list[str]) -> dict[int, Any]:
    try:
        return dict(file.getexif())
    except (SyntaxError, ValueError, struct.error, OSError):
        notes.append("its EXIF data is corrupt")
        return {}


def _losses(file: PIL.Image.Image, path: Path) -> list[str]:
    """Return what was lost by the format of an image file, one warning each."""
    losses = []
    size_kb = path.stat().st_size / 1000
    lossy_webp = file.format == "WEBP" and b"VP8L" not in path.read_bytes()[:4096]
    if file.format in ("JPEG", "MPO", "JPEG2000") or lossy_webp:
        losses.append(
            f"{'WebP' if lossy_webp else 'JPEG'} compression ({size_kb:.0f} kB) has changed the sound: a 512x512 hifi image "
            "is then 1.0 dB off in every band at 24 kB and 1.6 dB at 12 kB, where PNG is 0.3 dB off; keep PNG"
        )
    if file.mode == "P":
        colours = len(file.getcolors(256) or range(256))
        losses.append(f"has a palette of {colours} colours; if it was made to save space, the sound is coarser")
    if file.has_transparency_data and _transparent(file):
        losses.append("is partly transparent; transparent parts are read as white, which is silence")
    if file.mode.startswith(("I", "F")):
        losses.append(f"has levels of more than 8 bits ({file.mode}); they are rounded to 8")
    if file.mode == "1":
        losses.append("is black and white without greys: all but two levels of loudness are lost")
    if getattr(file, "n_frames", 1) > 1:
        losses.append("contains several images; the first is read")
    return losses


def _transparent(file: PIL.Image.Image) -> bool:
    low, _ = file.convert("RGBA").getchannel("A").getextrema()
    return bool(float(str(low)) < 255)


def _rgb(file: PIL.Image.Image) -> np.ndarray:
    """Return uint8 (height, width, 3)."""
    if file.mode.startswith(("I", "F")):
        values = np.asarray(file, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("levels that are not numbers")
        # Integers are 16-bit levels, which Pillow may read as mode I. Floats go to 1, 255 or 65535.
        full = (
            65535.0
            if file.mode.startswith("I")
            else next(top for top in (1, 255, 65535, np.inf) if values.max() <= top)
        )
        levels = np.rint(values.clip(0) * (255 / full)).clip(0, 255).astype(np.uint8)
        return np.repeat(levels[..., None], 3, 2)
    if file.has_transparency_data:
        white = PIL.Image.new("RGBA", file.size, (255, 255, 255, 255))
        return np.asarray(PIL.Image.alpha_composite(white, file.convert("RGBA")).convert("RGB"))
    return np.asarray(file.convert("RGB"))


TEXT_KEY = "spectrogram"
"""The PNG text that holds the codec's parameters and the maximum, as JSON."""

# The original's EXIF tags.
_RATE_HZ, _STEREO, _STEP_MS, _WINDOW_MS, _PADDED_MS = 11000, 11005, 11010, 11020, 11030
_BANDS, _F_MIN_HZ, _F_MAX_HZ, _POWER, _MAX_VALUE = 11040, 11050, 11060, 11070, 11080

_DECODE_MARGIN_PERCENT = 112
"""Where the decoder's Nyquist frequency must lie at least, in percent of the top band's upper edge."""

# Numbers beyond these are damage: a filter bank for them would fill the memory before any other check fails.
_LARGEST = {"rate_hz": 768_000, "n_fft": 1 << 18, "n_mels": 8192, "width_px": 1 << 20, "decode_n_fft": 1 << 18}
_MOST_WEIGHTS = 1 << 28

_FIX = "name the codec yourself with preset="


def text_of(config: SpectrogramConfig, max_value: float) -> str:
    """Return the PNG text for an image of this codec and maximum."""
    return json.dumps({**to_data(config), "max_value": max_value})


def exif_tags_of(config: SpectrogramConfig, max_value: float) -> dict[int, Any]:
    """Return the original's EXIF tags; none where they cannot express the codec.

    They can only express a scale per image, the HTK scale, whole milliseconds and whole Hertz; for other parameters they
    would mislead the original's decoder.
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
    """Return the codec and the maximum that a file describes: in the PNG text, else in the EXIF tags, else None.

    Args:
        text: The PNG text `TEXT_KEY`, if there is one.
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
        raise InputError(f"{where}: its {source} cannot be right ({problem}); {_FIX}")
    if config.n_mels != height_px:
        raise InputError(
            f"{where}: is {height_px} px high, but its {source} say {config.n_mels}: it was resized or cropped; "
            f"bring it back to {config.n_mels} px, or {_FIX}"
        )
    return config, max_value


def _from_text(text: str, source: str, where: str) -> tuple[SpectrogramConfig, float | None]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: its {source} is not valid JSON; {_FIX}") from None
    try:
        config = from_data(data, where)
    except (TypeError, AttributeError):
        raise InputError(f"{where}: its {source} is not a spectrogram description; {_FIX}") from None
    max_value = data.get("max_value")
    if max_value is None:
        return config, None
    return config, float(max_value) if _is_number(max_value) else math.nan


def _from_exif(exif: Mapping[int, Any], source: str, where: str) -> tuple[SpectrogramConfig, float | None]:
    try:
        return _config_of_exif(exif), float(exif[_MAX_VALUE]) if _MAX_VALUE in exif else None
    except KeyError as error:
        raise InputError(f"{where}: its {source} are incomplete (no {error}); {_FIX}") from None
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise InputError(f"{where}: its {source} do not describe a codec; {_FIX}") from None


def _config_of_exif(exif: Mapping[int, Any]) -> SpectrogramConfig:
    rate_hz = int(exif[_RATE_HZ])
    # Truncated, as in the original.
    hop_length, win_length, n_fft = (int(exif[tag] / 1000 * rate_hz) for tag in (_STEP_MS, _WINDOW_MS, _PADDED_MS))
    f_max_hz = float(exif[_F_MAX_HZ])
    # The lowest rate at which a hop is a whole number of samples and the top band fits below the Nyquist frequency.
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
    """Return a parameter that is not a number or far out of range; contradictions are left to `make_codec`."""
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


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
_LEVEL = 2
_WINDOW_BITS, _MEMORY_LEVEL = 15, 9


def png_bytes(
    image: npt.NDArray[np.uint8], texts: Mapping[str, str] | None = None, exif: PIL.Image.Exif | None = None
) -> bytes:
    """Return an image as PNG.

    The only repetitions in filtered spectrograms are runs, so the compressor searches for nothing else (zlib's `Z_RLE`);
    its level then hardly matters.

    Args:
        image: uint8, grey (height, width) or colour (height, width, 3).
        texts: PNG texts by name.
        exif: EXIF tags.
    """
    height, width = image.shape[:2]
    colours = 1 if image.ndim == 2 else image.shape[2]
    rows = np.ascontiguousarray(image).reshape(height, width * colours)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    _filter_rows(rows, colours, filtered)
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, _GREY if colours == 1 else _RGB, 0, 0, 0)
    described = [_text_chunk(name, text) for name, text in (texts or {}).items()]
    if exif:
        described.append(_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    packed = compressor.compress(filtered) + compressor.flush()
    return b"".join([_SIGNATURE, _chunk(b"IHDR", header), *described, _chunk(b"IDAT", packed), _chunk(b"IEND", b"")])


def _text_chunk(name: str, text: str) -> bytes:
    """Return a text as `tEXt`, which every reader knows, where it is Latin-1, else as uncompressed `iTXt`, in UTF-8."""
    key = name.encode("latin-1")
    try:
        return _chunk(b"tEXt", key + b"\0" + text.encode("latin-1"))
    except UnicodeEncodeError:
        return _chunk(b"iTXt", key + b"\0\0\0\0\0" + text.encode("utf-8"))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _filter_rows(rows: Any, colours: int, filtered: Any) -> None:
    """Write the number of each row's filter and the filtered row, by the least sum of absolute differences (PNG, 12.8).

    Filters: 1 takes off the pixel to the left, 2 the one above, 3 the mean of both. Whole rows are not assigned as slices:
    numba would compile the text of an error that cannot occur, for four seconds.

    Args:
        rows: uint8, (height, width * colours).
        colours: Bytes of a pixel.
        filtered: uint8, (height, 1 + width * colours), to write to.
    """
    width = rows.shape[1]
    above = np.zeros(width, np.uint8)
    left = np.zeros(width, np.uint8)
    candidates = np.empty((3, width), np.uint8)
    for row in range(len(rows)):
        for column in range(colours, width):
            left[column] = rows[row, column - colours]
        for column in range(width):
            here, before, over = rows[row, column], left[column], above[column]
            candidates[0, column] = here - before
            candidates[1, column] = here - over
            candidates[2, column] = here - ((np.int32(before) + np.int32(over)) >> 1)
        best, least = 0, np.int32(0)
        for kind in range(3):
            total = np.int32(0)
            for column in range(width):
                total += abs(np.int32(np.int8(candidates[kind, column])))
            if kind == 0 or total < least:
                best, least = kind, total
        filtered[row, 0] = 1 + best
        for column in range(width):
            filtered[row, 1 + column] = candidates[best, column]
            above[column] = rows[row, column]
