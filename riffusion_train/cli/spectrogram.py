"""`riffusion spectrogram encode | decode | inspect`: the codec by hand."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from riffusion_train.config.compose import group_options
from riffusion_train.config.errors import InputError
from riffusion_train.config.spectrogram import (
    Channels,
    SpectrogramConfig,
    from_data,
    load_preset,
    load_spectrogram,
)

if TYPE_CHECKING:
    from riffusion_train.audio.image import LoadedImage

DEFAULT_PRESET = "riffusion_v1"

_KEYS = {"encode": ("preset", "channels"), "decode": ("preset", "quality"), "inspect": ()}
_FILES = {"encode": ("AUDIO", "IMAGE"), "decode": ("IMAGE", "AUDIO"), "inspect": ("FILE",)}


def main(words: Sequence[str]) -> None:
    """Run `riffusion spectrogram WORDS`.

    Raises:
        InputError: If the words or the files cannot be used.
    """
    if not words or any(word in ("-h", "--help") for word in words):
        if not words:
            raise InputError(f"say what to do: {', '.join(_FILES)}; see riffusion spectrogram --help")
        print(_usage())
        return
    action, rest = words[0], words[1:]
    if action not in _FILES:
        raise InputError(f"unknown action '{action}'; choose from: {', '.join(_FILES)}")
    files, options = _parse(action, rest)
    {"encode": _encode, "decode": _decode, "inspect": _inspect}[action](files, options)


def _encode(files: list[Path], options: dict[str, str]) -> None:
    from riffusion_train.audio.codec import make_codec
    from riffusion_train.audio.files import read_audio, resample
    from riffusion_train.audio.image import save_image

    audio, image = files
    if image.suffix.lower() != ".png":
        raise InputError(f"{image}: the image must be a .png, which is lossless")
    config = _preset(options.get("preset", DEFAULT_PRESET))
    if "channels" in options:
        config = dataclasses.replace(config, channels=_channels(options["channels"]))
    codec = make_codec(config)
    wav, rate_hz = read_audio(audio)
    encoded = codec.encode_long(resample(wav, rate_hz, codec.rate_hz))
    save_image(image, encoded, config)
    height, width = encoded.image.shape[:2]
    print(f"wrote {image}: {width}x{height} px for {wav.shape[1] / rate_hz:.2f} s of audio, preset {config.name}")


def _decode(files: list[Path], options: dict[str, str]) -> None:
    from riffusion_train.audio.codec import make_codec
    from riffusion_train.audio.files import FORMATS, write_audio
    from riffusion_train.audio.image import load_image

    image, audio = files
    if audio.suffix.lower() not in FORMATS:  # known before the work is done, not after
        raise InputError(f"{audio}: cannot write '{audio.suffix}' audio; choose from: {', '.join(FORMATS)}")
    loaded = load_image(image)
    if "preset" in options:
        config, origin = _preset(options["preset"]), "preset"
        if loaded.config is not None:
            config = dataclasses.replace(config, channels=loaded.config.channels)
    elif loaded.config is not None:
        config, origin = loaded.config, "preset"
    else:
        config, origin = load_preset(DEFAULT_PRESET), "the image names no preset, assumed"
    codec = make_codec(config)
    wav = codec.decode(loaded.image, loaded.max_value, quality=options.get("quality", "normal"))
    write_audio(audio, wav, codec.rate_hz)
    height, width = loaded.image.shape[:2]
    duration_s = wav.shape[1] / codec.rate_hz
    print(f"wrote {audio}: {duration_s:.2f} s at {codec.rate_hz} Hz from {width}x{height} px, {origin} {config.name}")


def _inspect(files: list[Path], options: dict[str, str]) -> None:
    from riffusion_train.audio.image import load_image

    (path,) = files
    if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
        print(_describe_image(path, load_image(path)))
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
    from riffusion_train.audio.files import read_audio
    from riffusion_train.audio.tags import read_tags

    wav, rate_hz = read_audio(path)
    channels, samples = wav.shape
    lines = [
        f"{path}: {samples / rate_hz:.2f} s, {rate_hz} Hz, {channels} channel{'s' if channels > 1 else ''}, "
        f"peak {abs(wav).max():.3f}"
    ]
    return "\n".join([*lines, *(f"{name}: {text}" for name, text in read_tags(path).items())])


def _parse(action: str, words: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Split the words into files and `key=value` options; a file name may hold '=' unless it starts with a known key."""
    files: list[Path] = []
    options: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if separator and key in _KEYS[action]:
            options[key] = value
        else:
            files.append(Path(word))
    wanted = _FILES[action]
    if len(files) != len(wanted):
        keys = "".join(f" [{key}=…]" for key in _KEYS[action])
        got = ", ".join(str(file) for file in files) or "nothing"
        raise InputError(f"usage: riffusion spectrogram {action} {' '.join(wanted)}{keys}; got {got}")
    return files, options


def _preset(value: str) -> SpectrogramConfig:
    """Return the preset of that name, or the one in a `spectrogram.json` or in a folder that holds one."""
    path = Path(value)
    if value not in group_options("spectrogram"):
        if path.is_dir() and (config := load_spectrogram(path)) is not None:
            return config
        if path.is_file():
            try:
                return from_data(json.loads(path.read_text(encoding="utf-8")), str(path))
            except ValueError:
                raise InputError(f"{path}: not valid JSON") from None
    return load_preset(value)


def _channels(value: str) -> Channels:
    if value not in Channels.__members__:
        raise InputError(f"channels={value} is unknown; choose from: {', '.join(Channels.__members__)}")
    return Channels[value]


def _shown(value: object) -> object:
    return getattr(value, "value", value)


def _usage() -> str:
    presets = "|".join([*group_options("spectrogram"), "PATH"])
    return f"""usage: riffusion spectrogram encode AUDIO IMAGE.png [preset={presets}] [channels=mono|stereo]
       riffusion spectrogram decode IMAGE AUDIO [quality=draft|normal|best] [preset={presets}]
       riffusion spectrogram inspect FILE

encode writes one image as wide as the audio is long; decode takes the preset from the image where it carries one.
PATH is a spectrogram.json, or a folder that holds one (a dataset, an exported model)."""
