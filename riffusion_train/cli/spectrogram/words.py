"""The words of `riffusion spectrogram`: files, and `key=value` options."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from riffusion_train.config.compose import group_options
from riffusion_train.config.sample import Inverter, Quality
from riffusion_train.config.spectrogram import (
    Channels,
    SpectrogramConfig,
    from_data,
    load_preset,
    load_spectrogram,
)
from riffusion_train.runtime.errors import InputError, choice

DEFAULT_PRESET = "riffusion_v1"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclasses.dataclass(frozen=True)
class Action:
    """What an action takes: names of its files, how many may be left out at the end or repeated at the start, its keys."""

    files: tuple[str, ...]
    keys: tuple[str, ...]
    optional: int = 0
    repeats: bool = False

    @property
    def usage(self) -> str:
        """The files and keys, as the help shows them."""
        names = list(self.files)
        for place in range(len(names) - self.optional, len(names)):
            names[place] = f"[{names[place]}]"
        if self.repeats:
            names[0] += "…"
        return " ".join([*names, *(f"[{key}={_values(key)}]" for key in self.keys)])


ACTIONS = {
    "encode": Action(("AUDIO", "IMAGE.png|FOLDER"), ("preset", "channels", "slices", "width", "overlap")),
    "decode": Action(("IMAGE|FOLDER", "AUDIO"), ("preset", "quality", "inverter", "overlap"), repeats=True),
    "inspect": Action(("FILE",), ()),
    "compare": Action(("A", "B", "OUT.png"), ("preset", "quality", "inverter", "level"), optional=1),
}


def parse(action: str, words: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Split the words into files and `key=value` options; a file name may hold '=' unless it starts with a known key.

    Raises:
        InputError: If there are too few or too many files; the message shows the usage.
    """
    wanted = ACTIONS[action]
    files: list[Path] = []
    options: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if separator and key in wanted.keys:
            options[key] = value
        else:
            files.append(Path(word))
    least, most = len(wanted.files) - wanted.optional, len(wanted.files)
    if len(files) < least or (len(files) > most and not wanted.repeats):
        got = ", ".join(str(file) for file in files) or "nothing"
        raise InputError(f"usage: riffusion spectrogram {action} {wanted.usage}; got {got}")
    return files, options


def preset_of(value: str) -> SpectrogramConfig:
    """Return the preset of that name, or the one in a `spectrogram.json` or in a folder that holds one.

    Raises:
        InputError: If there is no such preset, or the file cannot be used.
    """
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


def channels_of(value: str) -> Channels:
    """Return the channel layout of that name."""
    return Channels[choice("channels", value, Channels.__members__)]


def flag(options: Mapping[str, str], key: str) -> bool:
    """Return a true-or-false option, false where it is not given."""
    return choice(key, options.get(key, "false"), ("true", "false")) == "true"


def whole_number(options: Mapping[str, str], key: str, default: int) -> int:
    """Return an option that counts something.

    Raises:
        InputError: If it is not a whole number of at least 0.
    """
    value = options.get(key, str(default))
    if not value.isdecimal():
        raise InputError(f"{key}={value}: not a whole number")
    return int(value)


def warn(path: Path, warnings: Iterable[str]) -> None:
    """Print warnings about a file on stderr, one line each."""
    for warning in warnings:
        print(f"riffusion spectrogram: warning: {path}: {warning}", file=sys.stderr)


def usage() -> str:
    """Return the help."""
    rows = "\n".join(
        f"{'usage:' if row == 0 else '      '} riffusion spectrogram {action} {wanted.usage}"
        for row, (action, wanted) in enumerate(ACTIONS.items())
    )
    return f"""{rows}

encode   writes one image as wide as the audio is long; slices=true (or width=) writes a folder of images of the preset's
         width, or of that width, that share overlap= columns with their neighbours.
decode   takes the preset from the image where it carries one. Several images, or a folder of them, become one sound:
         slices that encode wrote by their places, others by their names, sharing overlap= columns.
inspect  tells what an image or an audio file holds.
compare  prints how far the sound B is from the sound A, and draws both and their difference into OUT.png. An image stands
         for the sound it decodes to. level=keep counts a difference in loudness too.

PATH is a spectrogram.json, or a folder that holds one (a dataset, an exported model). Docs: docs/codec.md"""


def _values(key: str) -> str:
    fixed = {"slices": "true", "width": "PX", "overlap": "PX", "level": "match|keep"}
    if key == "preset":
        return "|".join([*group_options("spectrogram"), "PATH"])
    members: dict[str, Iterable[str]] = {
        "channels": Channels.__members__,
        "quality": Quality.__members__,
        "inverter": Inverter.__members__,
    }
    return fixed[key] if key in fixed else "|".join(members[key])
