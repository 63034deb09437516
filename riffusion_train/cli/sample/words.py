"""The words of `riffusion sample`: a model, texts and files behind flags, and `key=value` options."""

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riffusion_train.cli.command import FlagParser
from riffusion_train.config.compose import compose, config_keys
from riffusion_train.config.sample import ModeName, SampleConfig
from riffusion_train.runtime.errors import InputError

USAGE = "MODEL --prompt TEXT … | --prompts FILE | --again FILE [--negative TEXT] [--audio FILE …] "
FLAGS_HELP = """
flags:
  --prompt TEXT          what to make; (word:1.2), (word) and [word] weigh; repeat it for several clips, or stations of a walk
  --prompts FILE         one prompt a line
  --prompt-end TEXT      in audio, the prompt at the end of the sound
  --negative TEXT        what to lead away from
  --audio FILE           the sound to work on; repeat it for several, two for a morph
  --keep A-B, --renew A-B  in inpaint, seconds that stay, or that are made anew; repeat them
  --band LOW-HIGH        in inpaint, only these frequencies in Hz
  --mask FILE            in inpaint, a picture over the sound: white is made anew
  --schedule TEXT        in long, prompts by time: '0s: slow piano | 30s: drums'
  --energy TEXT          in long, level by time, 0 to 1: '0s: 0.2 | 30s: 1'
  --lora FILE[:WEIGHT]   merge a LoRA into the model; repeat it
  --again FILE           make a clip once more from its .json, .png or audio file"""

_FREE_KEYS = {"out", "format", "device", "num_threads", "batch_size"}
"""Keys that do not change a clip, or by its last bits only."""

_UNITS_S = {"": 1.0, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, str | None, SampleConfig, dict[str, Any]]:
    """Return the flags, the model, the config, and the values of the keys that were given and can change a clip.

    Raises:
        InputError: If a word is unknown, or a flag does not go with the mode.
    """
    flags, rest = _parser().parse_known_args(list(words))
    unknown = [word for word in rest if word.startswith("--")]
    if unknown:
        raise InputError(f"unknown flag {unknown[0]}; the flags are {USAGE.strip()} and more, see --help")
    keys = tuple(f"{field.name}=" for field in dataclasses.fields(SampleConfig))
    models = [word for word in rest if not word.startswith(keys) and (Path(word).exists() or "=" not in word)]
    config = compose("sample", SampleConfig, [word for word in rest if word not in models])
    if len(models) > 1:
        raise InputError(f"more than one model: {', '.join(models)}; texts go in --prompt TEXT, sounds in --audio FILE")
    _check(flags, config.mode)
    names = {key for key in config_keys(SampleConfig) if any(word.startswith(f"{key}=") for word in rest)}
    given = {name: getattr(config, name) for name in names - _FREE_KEYS}
    return flags, models[0] if models else None, config, given


def prompts_of(flags: argparse.Namespace) -> list[str]:
    """Return the prompts of the command line and of the file, one a line.

    Raises:
        InputError: If the file is missing or holds none.
    """
    prompts = list(flags.prompt)
    if flags.prompts:
        path = Path(flags.prompts).expanduser()
        if not path.is_file():
            raise InputError(f"--prompts {path}: no such file")
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not lines:
            raise InputError(f"--prompts {path}: is empty; write one prompt a line")
        prompts += lines
    return prompts


def seconds(text: str, where: str) -> float:
    """Return a duration or a time: `90`, `90s`, `1:30`, `3min`, `1h`.

    Raises:
        InputError: If it is none.
    """
    if found := re.fullmatch(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text.strip()):
        return 3600.0 * int(found[1] or 0) + 60.0 * int(found[2]) + float(found[3])
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|sec|min|m|h|)", text.strip())
    if not found:
        raise InputError(f"{where}: '{text.strip()}' is no time; write 90, 90s, 1:30 or 3min")
    return float(found[1]) * _UNITS_S[found[2]]


def span(text: str, where: str) -> tuple[float, float]:
    """Return a range, `0-2.5`; of seconds or Hertz.

    Raises:
        InputError: If it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*[-–]\s*(\d+(?:\.\d*)?|\.\d+)\s*", text)
    if not found:
        raise InputError(f"{where} {text}: is no range; write START-END, such as 0-2.5")
    return float(found[1]), float(found[2])


def points(text: str | None, where: str) -> tuple[tuple[float, str], ...]:
    """Return what stands at which second: `0s: slow piano | 30s: drums`.

    Raises:
        InputError: If a part has no time.
    """
    found = []
    for part in (text or "").split("|"):
        if part.strip():
            match = re.fullmatch(r"\s*([\d.:]*\d[\d.]*\s*[a-z]*)\s*:\s(.*)", part)
            if not match:
                raise InputError(f"{where}: '{part.strip()}' has no time; write '0s: slow piano | 30s: drums'")
            found.append((seconds(match[1], where), match[2].strip()))
    return tuple(found)


def _parser() -> argparse.ArgumentParser:
    parser = FlagParser(prog="riffusion sample", add_help=False, allow_abbrev=False)
    for flag in ("--prompt", "--audio", "--keep", "--renew", "--lora"):
        parser.add_argument(flag, action="append", default=[])
    for flag in ("--prompts", "--again", "--prompt-end", "--band", "--mask", "--schedule", "--energy"):
        parser.add_argument(flag)
    parser.add_argument("--negative", default="")
    return parser


_OWN_FLAGS = {
    "prompt_end": (ModeName.audio,),
    "keep": (ModeName.inpaint,),
    "renew": (ModeName.inpaint,),
    "band": (ModeName.inpaint,),
    "mask": (ModeName.inpaint,),
    "schedule": (ModeName.long,),
    "energy": (ModeName.long,),
    "audio": (ModeName.audio, ModeName.inpaint, ModeName.extend, ModeName.morph),
}


def _check(flags: argparse.Namespace, mode: ModeName) -> None:
    """Refuse flags that would be left aside without a word."""
    if flags.again:
        others = [name for name, value in vars(flags).items() if value and name not in ("again", "lora")]
        if others:
            raise InputError(f"--{others[0].replace('_', '-')} does not go with --again, which repeats a clip as it is")
        return
    for name, modes in _OWN_FLAGS.items():
        flag = "--" + name.replace("_", "-")
        if getattr(flags, name) and mode not in modes:
            raise InputError(
                f"{flag} goes with mode={'|'.join(one.value for one in modes)}, not with mode={mode.value}"
            )
    if ModeName.morph is mode and len(flags.audio) != 2:
        raise InputError("mode=morph needs two sounds: --audio FROM --audio TO")
    if mode in _OWN_FLAGS["audio"] and not flags.audio:
        raise InputError(f"mode={mode.value} needs a sound: --audio FILE")
