"""Convert whole files: a sound file to a spectrogram image or a folder of slices, and images back to sound.

Every function that converts returns the warnings about its files as data, one line each, beginning with the path.

A slice is made like any clip of its preset, so that a model can work on it. Its columns at the edges saw a reflection instead
of its neighbour's sound, so neighbours share some columns and crossfade there. They are joined as images, before the phase is
rebuilt, so that the join is inaudible.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from riffusion_train.audio.codec import EncodedClip, SpectrogramCodec, make_codec
from riffusion_train.audio.image_file import LoadedImage, load_image, require_size, save_image
from riffusion_train.audio.marking import SOUNDS, XMP_TEXT, Mark, read_mark
from riffusion_train.audio.mel import clipping_warnings, sound_warnings
from riffusion_train.audio.read import load_audio, resample
from riffusion_train.config.compose import group_options
from riffusion_train.config.spectrogram import (
    DEFAULT_PRESET,
    Channels,
    Inverter,
    Quality,
    SpectrogramConfig,
    find_preset,
    load_preset,
)
from riffusion_train.runtime.errors import InputError

# --- files -----------------------------------------------------------------------------------------------------------

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")

_COLOUR_LEVELS = 16.0
"""Mean difference between the colours of a mono image, in levels of 256, above which it is hardly a spectrogram."""


@dataclasses.dataclass(frozen=True)
class EncodedFile:
    """What `encode_file` or `encode_slices` wrote."""

    summary: str
    """The path, the number of images and their size, as a text."""
    duration_s: float
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class DecodedImages:
    """The sound of one or several images.

    Attributes:
        wav: float32 (channels, samples) at `rate_hz`.
        rate_hz: The sample rate.
        summary: What it was decoded from, as a text: number and size of the images, and their codec.
        warnings: One line each.
        mark: The model that made the images, if one did.
    """

    wav: np.ndarray
    rate_hz: int
    summary: str
    warnings: tuple[str, ...]
    mark: Mark | None = None


@dataclasses.dataclass(frozen=True)
class LoadedSound:
    """A sound from an audio file, or decoded from images: float32 (channels, samples) at `rate_hz`, and warnings."""

    wav: np.ndarray
    rate_hz: int
    warnings: tuple[str, ...]


def encode_file(audio: Path, image: Path, config: SpectrogramConfig) -> EncodedFile:
    """Encode a sound file of any length as one image, as wide as the sound is long.

    Args:
        audio: The sound file.
        image: The PNG file to write; it carries the codec.
        config: The codec.

    Raises:
        InputError: If a file cannot be used, or the image would be too large.
    """
    if image.suffix.lower() != ".png":
        raise InputError(f"{image}: the image must be a .png, which is lossless; a folder takes slices=true")
    codec = make_codec(config)
    wav, duration_s, warnings = _load_for(audio, codec)
    require_size(_num_columns(wav, config), config.n_mels, str(image))  # before the work, not after it
    encoded = codec.encode_long(wav)
    save_image(image, encoded, config, _mark_texts(audio))
    warnings += _about(audio, clipping_warnings([encoded.image], config))
    height, width = encoded.image.shape[:2]
    return EncodedFile(f"{image}: {width}x{height} px", duration_s, tuple(warnings))


def encode_slices(
    audio: Path, folder: Path, config: SpectrogramConfig, *, overlap_px: int | None = None
) -> EncodedFile:
    """Encode a sound file of any length as a folder of images of the codec's width.

    Args:
        audio: The sound file.
        folder: Where to write; it is made if it is new and must not hold images.
        config: The codec; its `width_px` is the width of the slices.
        overlap_px: Columns that neighbours share; None takes `_OVERLAP_PX`, at most a quarter of the width.

    Raises:
        InputError: If a file or the overlap cannot be used, or the folder holds images.
    """
    if folder.suffix.lower() == ".png":
        raise InputError(f"{folder}: slices are written into a folder; name one")
    codec = make_codec(config)
    wav, duration_s, warnings = _load_for(audio, codec)
    strip_px = _num_columns(wav, config)
    shared_px = min(_OVERLAP_PX, config.width_px // 4) if overlap_px is None else overlap_px
    starts = slice_starts(strip_px, config.width_px, shared_px)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder}: is a file; name a folder for the slices") from None
    if any(folder.glob("*.png")):
        raise InputError(f"{folder}: holds images already, which decode would mix with these; name another folder")
    images, marked = [], _mark_texts(audio)
    digits = max(3, len(str(len(starts) - 1)))
    for index, start_px in enumerate(starts):
        encoded = codec.encode(wav[:, start_px * config.hop_length :][:, : config.clip_samples])
        images.append(encoded.image)
        path = folder / f"{audio.stem}-{index:0{digits}d}.png"
        texts = {_SLICE_KEY: _slice_text(index, starts, strip_px, audio.name), **marked}
        save_image(path, encoded, config, texts)
    warnings += _about(audio, clipping_warnings(images, config))
    plural = "s" if len(starts) > 1 else ""
    summary = f"{folder}: {len(starts)} slice{plural} of {config.width_px}x{config.n_mels} px, {shared_px} px shared,"
    return EncodedFile(summary, duration_s, tuple(warnings))


def decode_images(
    sources: Sequence[Path],
    *,
    preset: str | None = None,
    quality: Quality = Quality.normal,
    inverter: Inverter = Inverter.pghi,
    overlap_px: int | None = None,
) -> DecodedImages:
    """Decode one image, several, or the images of a folder, into one sound.

    Args:
        sources: Images, and folders of them. Slices are joined by their places, other images in the order given.
        preset: The codec, as in `find_preset`; None takes what the images say, or else the preset that their height fits.
        quality: How long to search for the phase.
        inverter: How the phase is found.
        overlap_px: Columns that neighbouring images share; None takes what slices say, and 0 for other images.

    Raises:
        InputError: If an image cannot be read, or the images do not belong together.
    """
    paths = _image_paths(sources)
    images = [load_image(path, use_description=preset is None) for path in paths]
    for path, loaded in zip(paths, images, strict=True):
        if loaded.image.shape[1] < 2:
            raise InputError(f"{path}: is one column wide; a sound needs at least two")
    config, origin = _codec_of(paths, images, preset)
    warnings: list[str] = []
    for path, loaded in zip(paths, images, strict=True):
        warnings += _about(path, [*loaded.warnings, *_colour_warnings(loaded, config)])
    codec = make_codec(config)
    if len(images) == 1:
        pixels, max_value = images[0].image, images[0].max_value
        count = ""
    else:
        strip = _join_slices(paths, images, codec, overlap_px)
        pixels, max_value = strip.image, strip.max_value
        count = f"{len(images)} images, "
    wav = codec.decode(pixels, max_value, quality=quality, inverter=inverter)
    height, width = pixels.shape[:2]
    summary = f"{count}{width}x{height} px, {origin} {config.name}"
    marks = (Mark.from_xmp(loaded.texts.get(XMP_TEXT, "")) for loaded in images)
    mark = next((one for one in marks if one is not None), None)
    return DecodedImages(wav, codec.rate_hz, summary, tuple(warnings), mark)


def load_sound(
    path: Path, *, preset: str | None = None, quality: Quality = Quality.normal, inverter: Inverter = Inverter.pghi
) -> LoadedSound:
    """Return the sound of an audio file, or the one that an image or a folder of slices decodes to.

    Args:
        path: The file or folder.
        preset: For images: the codec, as in `decode_images`.
        quality: For images: how long to search for the phase.
        inverter: For images: how the phase is found.

    Raises:
        InputError: If the file cannot be used.
    """
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        decoded = decode_images([path], preset=preset, quality=quality, inverter=inverter)
        return LoadedSound(decoded.wav, decoded.rate_hz, decoded.warnings)
    loaded = load_audio(path)
    return LoadedSound(loaded.wav, loaded.rate_hz, tuple(_about(path, loaded.warnings)))


def _load_for(audio: Path, codec: SpectrogramCodec) -> tuple[np.ndarray, float, list[str]]:
    """Return a sound at the rate of a codec, (channels, samples), its duration in seconds, and warnings."""
    loaded = load_audio(audio)
    warnings = _about(audio, [*loaded.warnings, *sound_warnings(loaded.wav, loaded.rate_hz, codec.config)])
    wav = resample(loaded.wav, loaded.rate_hz, codec.rate_hz)
    return wav, loaded.wav.shape[1] / loaded.rate_hz, warnings


def _mark_texts(audio: Path) -> dict[str, str]:
    """Return the text that marks the images of a marked sound; none for others."""
    mark = read_mark(audio) if audio.suffix.lower() in SOUNDS else None
    return {} if mark is None else {XMP_TEXT: mark.xmp()}


def _num_columns(wav: np.ndarray, config: SpectrogramConfig) -> int:
    return wav.shape[1] // config.hop_length + 1


def _about(path: Path, warnings: Iterable[str]) -> list[str]:
    return [f"{path}: {warning}" for warning in warnings]


def _image_paths(sources: Sequence[Path]) -> list[Path]:
    paths: list[Path] = []
    for source in sources:
        if not source.is_dir():
            paths.append(source)
            continue
        inside = [path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."]
        if not inside:
            raise InputError(f"{source}: holds no images")
        paths += sorted(inside, key=_natural)
    return paths


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts slice-9 before slice-10."""
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", path.name)]


def _codec_of(
    paths: Sequence[Path], images: Sequence[LoadedImage], preset: str | None
) -> tuple[SpectrogramConfig, str]:
    """Return the codec of images, and where it is known from."""
    named = images[0].config
    for path, loaded in zip(paths, images, strict=True):
        if loaded.config != named:
            raise InputError(f"{path}: was made by another codec than {paths[0]}; decode them one by one")
    if preset is not None:
        config = find_preset(preset)
        return (config if named is None else dataclasses.replace(config, channels=named.channels)), "preset"
    if named is not None:
        return named, "preset"
    return _preset_of_height(paths[0], images[0]), "the image names no preset, assumed"


def _preset_of_height(path: Path, loaded: LoadedImage) -> SpectrogramConfig:
    """Return the preset that an image without a description is taken for: that of its height, the default one first."""
    height, width = loaded.image.shape[:2]
    presets = {name: load_preset(name) for name in group_options("spectrogram")}
    for config in (presets[DEFAULT_PRESET], *presets.values()):
        if config.n_mels == height:
            return config
    heights = ", ".join(f"{name} {config.n_mels}" for name, config in presets.items())
    raise InputError(
        f"{path}: an image of {width}x{height} px is no spectrogram of a known preset (heights: {heights}); "
        "name its codec with preset=PATH, or bring it to the height it was made with"
    )


def _colour_warnings(loaded: LoadedImage, config: SpectrogramConfig) -> list[str]:
    image = loaded.image
    if config.channels is not Channels.mono or image.ndim == 2:
        return []
    difference = float(np.ptp(image, axis=2).mean())
    if difference < _COLOUR_LEVELS:
        return []
    return [f"its colours differ by {difference:.0f} levels, though '{config.name}' is grey; they are averaged"]


# --- slices ----------------------------------------------------------------------------------------------------------

_SLICE_KEY = "slice"
"""The PNG text that says where in the strip a slice lies, as JSON."""

_OVERLAP_PX = 16
"""Columns that neighbours share by default, at most a quarter of the width; the window of no preset covers more."""


def slice_starts(strip_px: int, width_px: int, overlap_px: int) -> list[int]:
    """Return the first columns of slices that cover a strip; the last one may reach beyond its end.

    Raises:
        InputError: If the overlap leaves no step forward.
    """
    if not 0 <= overlap_px <= width_px // 2:
        raise InputError(f"overlap={overlap_px} must lie between 0 and half of the width, {width_px // 2}")
    step = width_px - overlap_px
    return [0, *range(step, max(strip_px - overlap_px, 0), step)]


def _slice_text(index: int, starts: Sequence[int], strip_px: int, source: str) -> str:
    """Return the PNG text of one slice."""
    position = {
        "index": index, "count": len(starts), "start_px": starts[index], "strip_px": strip_px, "source": source,
    }  # fmt: skip
    return json.dumps(position, ensure_ascii=False)


def _join_slices(
    paths: Sequence[Path], images: Sequence[LoadedImage], codec: SpectrogramCodec, overlap_px: int | None
) -> EncodedClip:
    """Join several images into one strip: slices by their positions, other images in the order given.

    Args:
        paths: Where the images are from, for messages.
        images: At least two.
        codec: Their codec.
        overlap_px: Columns that neighbours share; None takes it from the slices, and 0 for other images.

    Raises:
        InputError: If a slice is missing, slices of several sounds are mixed, or the images do not fit each other.
    """
    positions = [_position(path, loaded) for path, loaded in zip(paths, images, strict=True)]
    strip_px = None
    known = [position for position in positions if position is not None]
    if overlap_px is None and len(known) == len(images):
        if len({(position["source"], position["strip_px"]) for position in known}) > 1:
            raise InputError(
                f"{paths[0].parent}: slices of several sounds; give the files of one, or overlap=0 to join all"
            )
        order = sorted(range(len(known)), key=lambda index: known[index]["start_px"])
        overlap_px = _overlap(paths[0].parent, [known[index]["start_px"] for index in order], images[0].image.shape[1])
        strip_px = known[0]["strip_px"] - known[order[0]]["start_px"]
        images = [images[index] for index in order]
    clips = [EncodedClip(loaded.image, loaded.max_value or 0.0) for loaded in images]
    try:
        joined = codec.crossfade(clips, overlap_px or 0)
    except InputError as error:
        raise InputError(f"{paths[0].parent}: {error}") from None
    return EncodedClip(joined.image[:, :strip_px], joined.max_value)


def _overlap(folder: Path, starts: Sequence[int], width_px: int) -> int:
    overlaps = set()
    for before, after in itertools.pairwise(starts):
        if after > before + width_px:
            raise InputError(f"{folder}: columns {before + width_px} to {after} are in no image; add the missing slice")
        overlaps.add(before + width_px - after)
    if len(overlaps) > 1:
        raise InputError(f"{folder}: the slices are not evenly spaced; one is missing or duplicated")
    return overlaps.pop()


def _position(path: Path, loaded: LoadedImage) -> dict[str, Any] | None:
    """Return where in its strip a slice lies; None where the image does not say."""
    try:
        position = json.loads(loaded.texts[_SLICE_KEY])
        return {
            "start_px": int(position["start_px"]),
            "strip_px": int(position["strip_px"]),
            "source": str(position["source"]),
        }
    except KeyError:
        return None
    except (ValueError, TypeError):
        raise InputError(f"{path}: its text '{_SLICE_KEY}' is damaged; give overlap= to join by name") from None
