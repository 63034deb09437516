"""Spectrogram images on disk: PNG files that say how they were made.

A mono spectrogram is written as 8-bit grey, less than half the size of the original's RGB with three equal channels: the
original's decoder and the common image trainers make RGB of whatever they read.
"""

import dataclasses
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from PIL.PngImagePlugin import PngInfo

from riffusion_train.audio.codec import EncodedClip
from riffusion_train.audio.description import TEXT_KEY, exif_tags_of, read_description, text_of
from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.runtime.errors import InputError

MAX_PIXELS = 1 << 27
"""The most pixels that an image may have, 44 minutes at 512 bands and 100 columns a second."""

_MOSTLY_BLACK = 64
_LARGEST_SIDE = 1 << 20


@dataclasses.dataclass(frozen=True)
class LoadedImage:
    """An image file and what it says about itself.

    Attributes:
        image: uint8, (height, width) where all colours are equal, else (height, width, 3).
        config: The codec's parameters; None where the file does not give them.
        max_value: The magnitude of black; None where the file does not give it.
        texts: All other PNG texts.
        warnings: What was lost in the file or in reading it, one line each, without the file's name.
    """

    image: np.ndarray
    config: SpectrogramConfig | None
    max_value: float | None
    texts: dict[str, str]
    warnings: tuple[str, ...] = ()


def save_image(
    path: Path, encoded: EncodedClip, config: SpectrogramConfig, texts: dict[str, str] | None = None
) -> None:
    """Write a PNG that carries its codec: as a PNG text and, where the original's EXIF tags can express it, as those.

    The file appears only when it is whole.

    Raises:
        InputError: If it cannot be written, or would be larger than `load_image` reads.
    """
    height, width = encoded.image.shape[:2]
    require_size(width, height, str(path))
    info = PngInfo()
    info.add_text(TEXT_KEY, text_of(config, encoded.max_value))
    for name, text in (texts or {}).items():
        info.add_text(name, text)
    exif = PIL.Image.Exif()
    exif.update(exif_tags_of(config, encoded.max_value))
    partial = path.with_name(f".{path.name}.partial")
    try:
        PIL.Image.fromarray(encoded.image).save(partial, "PNG", pnginfo=info, exif=exif)
        partial.replace(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError) as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def load_image(path: Path, *, use_description: bool = True) -> LoadedImage:
    """Read an image and its codec: from the PNG text, else from the original's EXIF tags, else None.

    Transparent parts become white, which is silence; 16-bit levels are rounded to 8; palettes become colours.

    Args:
        path: A file of any format that Pillow reads.
        use_description: Raise where the file's description of its codec cannot be used; else it becomes a warning.

    Raises:
        InputError: If the file is missing, not an image or too large, or its description cannot be used.
    """
    noted: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with PIL.Image.open(path) as file:
                require_size(file.width, file.height, str(path))
                file.load()
                texts = {name: str(text) for name, text in getattr(file, "text", {}).items()}
                exif = _exif(file, noted)
                noted += _losses(file, path)
                pixels = _rgb(file)
        noted += {"its EXIF data is corrupt" for warning in caught if "EXIF" in str(warning.message)}
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
        noted.append(str(error).removeprefix(f"{path}: ").rpartition("; ")[0])
    if pixels.mean(dtype=np.float64) < _MOSTLY_BLACK:
        noted.append("is mostly black, which is loud here; if it draws loud as bright, invert it")
    grey = bool((pixels[..., :1] == pixels[..., 1:]).all())
    return LoadedImage(pixels[..., 0] if grey else pixels, config, max_value, texts, tuple(noted))


def require_size(width: int, height: int, where: str) -> None:
    """Check that an image is not larger than what is read and written.

    Raises:
        InputError: If it is; the message names the way out.
    """
    if width * height > MAX_PIXELS or max(width, height) > _LARGEST_SIDE:
        raise InputError(
            f"{where}: {width}x{height} px are more than {MAX_PIXELS} px or {_LARGEST_SIDE} on a side; "
            "cut it into slices (encode with slices=true)"
        )


def _exif(file: PIL.Image.Image, noted: list[str]) -> dict[int, Any]:
    try:
        return dict(file.getexif())
    except (SyntaxError, ValueError, struct.error, OSError):
        noted.append("its EXIF data is corrupt")
        return {}


def _losses(file: PIL.Image.Image, path: Path) -> list[str]:
    """Return what the form of an image file costs."""
    found = []
    size_kb = path.stat().st_size / 1000
    lossy_webp = file.format == "WEBP" and b"VP8L" not in path.read_bytes()[:4096]
    if file.format in ("JPEG", "MPO", "JPEG2000") or lossy_webp:
        found.append(
            f"{'WebP' if lossy_webp else 'JPEG'} compression ({size_kb:.0f} kB) has changed the sound: a 512x512 hifi image "
            "is then 1.0 dB off in every band at 24 kB and 1.6 dB at 12 kB, where PNG is 0.3 dB off; keep PNG"
        )
    if file.mode == "P":
        colours = len(file.getcolors(256) or range(256))
        found.append(f"has a palette of {colours} colours; if it was made to save space, the sound is coarser")
    if file.has_transparency_data and _transparent(file):
        found.append("is partly transparent; transparent parts are read as white, which is silence")
    if file.mode.startswith(("I", "F")):
        found.append(f"has levels of more than 8 bits ({file.mode}); they are rounded to 8")
    if file.mode == "1":
        found.append("is black and white without greys: every level of loudness but two is lost")
    if getattr(file, "n_frames", 1) > 1:
        found.append("holds several pictures; the first is read")
    return found


def _transparent(file: PIL.Image.Image) -> bool:
    low, _ = file.convert("RGBA").getchannel("A").getextrema()
    return bool(float(str(low)) < 255)


def _rgb(file: PIL.Image.Image) -> np.ndarray:
    """Return uint8 (height, width, 3)."""
    if file.mode.startswith(("I", "F")):
        values = np.asarray(file, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("levels that are not numbers")
        # Whole numbers are 16-bit levels; Pillow reads 16-bit files as I too. Floats run to 1, 255 or 65535.
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
