"""`riffusion spectrogram inspect FILE`: what an image or an audio file holds."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from riffusion_train.cli.spectrogram.words import IMAGE_SUFFIXES, warn

if TYPE_CHECKING:
    from riffusion_train.audio.codec.image_file import LoadedImage


def run(files: Sequence[Path], options: Mapping[str, str]) -> None:
    """Print the size, the codec, the tags and the texts of a file.

    Raises:
        InputError: If the file cannot be read.
    """
    from riffusion_train.audio.codec.image_file import load_image

    (path,) = files
    if path.suffix.lower() in IMAGE_SUFFIXES:
        loaded = load_image(path, use_description=False)
        warn(path, loaded.warnings)
        print(_describe_image(path, loaded))
    else:
        print(_describe_audio(path))


def _describe_image(path: Path, loaded: "LoadedImage") -> str:
    height, width = loaded.image.shape[:2]
    kind = "grey" if loaded.image.ndim == 2 else "colour"
    lines = [f"{path}: {width}x{height} px, {kind}"]
    if loaded.config is None:
        lines.append("names no codec")
    else:
        duration_s = (width - 1) * loaded.config.hop_length / loaded.config.rate_hz
        lines.append(f"{duration_s:.2f} s of audio")
        lines += [f"{name}={_shown(value)}" for name, value in dataclasses.asdict(loaded.config).items()]
    if loaded.max_value is not None:
        lines.append(f"max_value={loaded.max_value:g}")
    return "\n".join([*lines, *(f"{name}: {text}" for name, text in loaded.texts.items())])


def _describe_audio(path: Path) -> str:
    from riffusion_train.audio.io.read import load_audio
    from riffusion_train.audio.io.tags import read_tags

    loaded = load_audio(path)
    warn(path, loaded.warnings)
    channels, samples = loaded.wav.shape
    lines = [
        f"{path}: {samples / loaded.rate_hz:.2f} s, {loaded.rate_hz} Hz, {channels} channel{'s' if channels > 1 else ''}, "
        f"peak {abs(loaded.wav).max():.3f}"
    ]
    return "\n".join([*lines, *(f"{name}: {text}" for name, text in read_tags(path).items())])


def _shown(value: object) -> object:
    return getattr(value, "value", value)
