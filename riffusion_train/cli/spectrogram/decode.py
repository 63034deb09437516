"""`riffusion spectrogram decode IMAGE… AUDIO`: one image, several, or a folder of slices."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from riffusion_train.audio.codec.slices import join_slices
from riffusion_train.cli.spectrogram.words import (
    DEFAULT_PRESET,
    IMAGE_SUFFIXES,
    preset_of,
    warn,
    whole_number,
)
from riffusion_train.config.compose import group_options
from riffusion_train.config.sample import Inverter, Quality
from riffusion_train.config.spectrogram import Channels, SpectrogramConfig, load_preset
from riffusion_train.runtime.errors import InputError, choice

if TYPE_CHECKING:
    import numpy as np

    from riffusion_train.audio.codec.image_file import LoadedImage

_COLOURED = 16.0
"""Mean difference of the colours of a mono image, in levels, from which on it is hardly a spectrogram."""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A decoded sound, (channels, samples), and how it came about."""

    wav: "np.ndarray"
    rate_hz: int
    story: str


def run(files: Sequence[Path], options: Mapping[str, str]) -> None:
    """Decode images into one audio file.

    Raises:
        InputError: If the words or the files cannot be used.
    """
    from riffusion_train.audio.io.write import FORMATS, write_audio

    *sources, audio = files
    if audio.suffix.lower() not in FORMATS:  # known before the work is done, not after
        raise InputError(f"{audio}: cannot write '{audio.suffix}' audio; choose from: {', '.join(FORMATS)}")
    decoded = decode_images(sources, options)
    write_audio(audio, decoded.wav, decoded.rate_hz)
    duration_s = decoded.wav.shape[1] / decoded.rate_hz
    print(f"wrote {audio}: {duration_s:.2f} s at {decoded.rate_hz} Hz from {decoded.story}")


def decode_images(sources: Sequence[Path], options: Mapping[str, str]) -> Decoded:
    """Return the sound of one image, of several, or of the images in a folder; warnings go to stderr.

    Raises:
        InputError: If an image cannot be read, or they do not belong together.
    """
    from riffusion_train.audio.codec.codec import make_codec
    from riffusion_train.audio.codec.image_file import load_image

    quality = choice("quality", options.get("quality", Quality.normal.value), Quality.__members__)
    inverter = choice("inverter", options.get("inverter", Inverter.pghi.value), Inverter.__members__)
    paths = _image_paths(sources)
    images = [load_image(path, use_description="preset" not in options) for path in paths]
    for path, loaded in zip(paths, images, strict=True):
        if loaded.image.shape[1] < 2:
            raise InputError(f"{path}: is one column wide; a sound needs at least two")
    config, origin = _codec_of(paths, images, options)
    for path, loaded in zip(paths, images, strict=True):
        warn(path, [*loaded.warnings, *_colour_warnings(loaded, config)])
    codec = make_codec(config, Path(options["vocoder"]) if "vocoder" in options else None)
    if len(images) == 1:
        pixels, max_value = images[0].image, images[0].max_value
        story = "{width}x{height} px"
    else:
        overlap_px = whole_number(options, "overlap", 0) if "overlap" in options else None
        strip = join_slices(paths, images, codec, overlap_px)
        pixels, max_value = strip.image, strip.max_value
        story = f"{len(images)} images, {{width}}x{{height}} px"
    wav = codec.decode(pixels, max_value, quality=quality, inverter=inverter)
    height, width = pixels.shape[:2]
    return Decoded(wav, codec.rate_hz, f"{story.format(width=width, height=height)}, {origin} {config.name}")


def _image_paths(sources: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        if not source.is_dir():
            found.append(source)
            continue
        inside = [path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."]
        if not inside:
            raise InputError(f"{source}: holds no images")
        found += sorted(inside, key=_natural)
    return found


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts slice-9 before slice-10."""
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", path.name)]


def _codec_of(
    paths: Sequence[Path], images: Sequence["LoadedImage"], options: Mapping[str, str]
) -> tuple[SpectrogramConfig, str]:
    described = [loaded.config for loaded in images]
    named = described[0]
    for path, config in zip(paths, described, strict=True):
        if config != named:
            raise InputError(f"{path}: was made by another codec than {paths[0]}; decode them one by one")
    if "preset" in options:
        config = preset_of(options["preset"])
        return (config if named is None else dataclasses.replace(config, channels=named.channels)), "preset"
    if named is not None:
        return named, "preset"
    return _assumed(paths[0], images[0]), "the image names no preset, assumed"


def _assumed(path: Path, loaded: "LoadedImage") -> SpectrogramConfig:
    """Return the preset that an image without a description is taken for, by its height."""
    height, width = loaded.image.shape[:2]
    presets = {name: load_preset(name) for name in group_options("spectrogram")}
    if height == presets[DEFAULT_PRESET].n_mels:
        return presets[DEFAULT_PRESET]
    fitting = [name for name, config in presets.items() if config.n_mels == height]
    if len(fitting) == 1:
        return presets[fitting[0]]
    known = ", ".join(f"{name} {config.n_mels}" for name, config in presets.items())
    raise InputError(
        f"{path}: an image of {width}x{height} px is no spectrogram of a known preset (heights: {known}); "
        "name its codec with preset=PATH, or bring it to the height it was made with"
    )


def _colour_warnings(loaded: "LoadedImage", config: SpectrogramConfig) -> list[str]:
    import numpy as np

    image = loaded.image
    if config.channels is not Channels.mono or image.ndim == 2:
        return []
    apart = float(np.ptp(image, axis=2).mean())
    if apart < _COLOURED:
        return []
    return [f"its colours differ by {apart:.0f} levels, though '{config.name}' is grey; they are averaged"]
