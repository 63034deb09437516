"""The one command-line parser: positionals, texts and files behind flags, `key=value`, `--help`, `--show`, `--config-dir`.

Texts never travel as `key=value`, whose commas, quotes and parentheses mean something to Hydra: `--prompt TEXT` is taken as it
is. Nothing here imports torch, so that help and wrong input answer at once.
"""

import argparse
import dataclasses
import enum
import re
import sys
import textwrap
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from riffusion_train.config.compose import (
    compose,
    composed_text,
    config_keys,
    current_key,
    group_options,
    preset_groups,
    search_path,
)
from riffusion_train.config.sample import ModeName, SampleConfig
from riffusion_train.runtime.errors import InputError, choice, member
from riffusion_train.runtime.files import refuse_url
from riffusion_train.runtime.hub import DEFAULT_MODEL

Root = TypeVar("Root")

_INDENT = " " * 6
HELP_FLAGS = ("-h", "--help")
_UNITS_S = {"": 1.0, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
DEFAULT_MODEL_NOTE = f"\nWithout MODEL it is {DEFAULT_MODEL}, the model that comes with the package."
NO_PROMPT = "no prompt: give --prompt TEXT, or --prompts FILE with one prompt a line"


@dataclasses.dataclass(frozen=True)
class Flag:
    """An argument behind a flag, such as `--prompt TEXT`."""

    name: str
    """The flag itself, `--prompt`."""
    metavar: str = "TEXT"
    """What follows it, for the help."""
    meaning: str = ""
    repeats: bool = False
    """Whether it may be given several times; its value is a list then."""
    default: str | None = None
    old_name: str | None = None
    """A former name; it is accepted with a warning."""


@dataclasses.dataclass(frozen=True)
class Arguments(Generic[Root]):
    """A parsed command line."""

    positionals: list[str]
    """Models, files and folders, in order."""
    flags: argparse.Namespace
    """The values of the flags."""
    config: Root
    """What the `key=value` arguments say."""
    given: dict[str, Any]
    """The values of the keys that the command line names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command(Generic[Root]):
    """What one command takes."""

    name: str
    """The verb, and its action where it has several: `evaluate grid`."""
    root: type[Root]
    """The dataclass of its keys."""
    usage: str = ""
    """Positionals and the main flags, as the help shows them."""
    flags: tuple[Flag, ...] = ()
    takes_positionals: bool = False
    has_presets: bool = True
    """Whether Hydra composes the config, with presets and dotted keys; otherwise a flat dataclass is filled in."""
    local_keys: tuple[str, ...] = ()
    """The keys that name a file or folder on this machine; a URL is refused there and as a positional."""
    notes: str = ""
    """Text at the end of the help."""

    def parse(self, arguments: Sequence[str]) -> Arguments[Root] | None:
        """Parse a command line; return None where `--help`, `--show` or `--cfg job` asked to print something instead.

        An argument that starts with `key=` of a known key is an option. Of the others, those without `=` and those that
        name an existing file are positionals, so that a path may hold `=`.

        Raises:
            InputError: If a flag or key is unknown, a value does not fit, or a mandatory key is missing.
        """
        if any(argument in HELP_FLAGS for argument in arguments):
            print(self.help())
            return None
        general, rest = parse_general_flags(arguments)
        flags, rest = self._parse_flags(rest)
        keys = tuple(f"{key}=" for key in config_keys(self.root))
        positionals = [argument for argument in rest if self._is_positional(argument, keys)]
        options = [argument for argument in rest if argument not in positionals]
        if self.has_presets:
            options = [*search_path(general.config_dir), *options]
        elif general.config_dir:
            raise InputError(f"--config-dir: riffusion {self.name} takes no presets of a config")
        if general.show:
            print(self._shown(options), end="")
            return None
        if self.has_presets:
            config = compose(self.config_name, self.root, options, command=self.name)
        else:
            config = fill(self.root, options)
        for key in self.local_keys:
            refuse_url(f"{key}=", getattr(config, key))
        for positional in positionals:
            refuse_url("", positional)
        names = {current_key(option.partition("=")[0].lstrip("+"), self.root) for option in options}
        given = {name: getattr(config, name) for name in names if hasattr(config, name)}
        return Arguments(positionals, flags, config, given)

    def _shown(self, options: Sequence[str]) -> str:
        if self.has_presets:
            return composed_text(self.config_name, self.root, options)
        from omegaconf import OmegaConf

        return OmegaConf.to_yaml(OmegaConf.structured(fill(self.root, options)))

    def help(self) -> str:
        """Return the help: usage, flags, presets, and every key with its default and meaning."""
        from riffusion_train.config.reference import key_rows

        lines = [f"usage: riffusion {' '.join(filter(None, [self.name, self.usage]))} [key=value …]", ""]
        groups = preset_groups(self.config_name) if self.has_presets else []
        if groups:
            lines += ["presets:", *(f"  {name}={'|'.join(group_options(name))}" for name in groups), ""]
        lines.append("keys:")
        for key, default, meaning in key_rows(self.root):
            lines += [
                f"  {key}={default}",
                *textwrap.wrap(meaning, 100, initial_indent=_INDENT, subsequent_indent=_INDENT),
            ]
        if self.flags:
            lines += ["", "flags:", *(_flag_row(flag) for flag in self.flags)]
        lines += ["", "--show, or --cfg job, prints the config that the other arguments make."]
        if groups:
            lines.append("--config-dir DIR adds your own presets, DIR/GROUP/NAME.yaml; repeat it for several folders.")
        return "\n".join([*lines, *filter(None, [self.notes])])

    @property
    def config_name(self) -> str:
        """The name of the config in `conf/`: the last word of the command."""
        return self.name.split()[-1]

    def _parse_flags(self, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
        parser = FlagParser(prog=f"riffusion {self.name}", add_help=False, allow_abbrev=False)
        for flag in self.flags:
            names = [flag.name, *filter(None, [flag.old_name])]
            if flag.repeats:
                parser.add_argument(*names, action="append", default=[])
            else:
                parser.add_argument(*names, default=flag.default)
            if flag.old_name and any(argument.partition("=")[0] == flag.old_name for argument in arguments):
                print(f"riffusion {self.name}: {flag.old_name} is now called {flag.name}", file=sys.stderr)
        flags, rest = parser.parse_known_args(arguments) if self.flags else (argparse.Namespace(), arguments)
        unknown = [argument for argument in rest if argument.startswith("--")]
        if unknown and self.takes_positionals:
            raise InputError(f"unknown flag {unknown[0]}; the flags are {self.usage}; see riffusion {self.name} --help")
        return flags, rest

    def _is_positional(self, argument: str, keys: tuple[str, ...]) -> bool:
        if not self.takes_positionals or argument.startswith(keys):
            return False
        return "=" not in argument or not self.has_presets or Path(argument).exists()


class FlagParser(argparse.ArgumentParser):
    """A parser of flags that raises `InputError` instead of printing a message and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the message."""
        raise InputError(message)


def parse_general_flags(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the flags that every command takes, `show` and `config_dir`, and the other arguments.

    Raises:
        InputError: If a flag has no value, or `--cfg` another than `job`.
    """
    parser = FlagParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--cfg", "-c")
    parser.add_argument("--resolve", action="store_true")  # references are always resolved
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    flags, rest = parser.parse_known_args(list(arguments))
    if flags.cfg is not None:
        choice("--cfg", flags.cfg, ("job",))
        flags.show = True
    return flags, rest


def fill(root: type[Root], options: Sequence[str]) -> Root:
    """Return a flat dataclass with the fields that `key=value` options name; needs no Hydra.

    Args:
        root: A dataclass whose fields are texts, whole numbers, true or false, or members of an enum, each perhaps None.
        options: `key=value` with keys of the dataclass.

    Raises:
        InputError: If a value does not fit its field.
    """
    kinds = field_kinds(root)
    pairs = (option.partition("=") for option in options)
    return root(**{key: _convert(key, value, kinds[key]) for key, _, value in pairs})


def field_kinds(root: type) -> dict[str, type]:
    """Return the type of each field of a flat dataclass, without the None of an optional one."""
    kinds = {}
    for key, hint in typing.get_type_hints(root).items():
        (kinds[key],) = (kind for kind in typing.get_args(hint) or (hint,) if kind is not types.NoneType)
    return kinds


def read_prompts(texts: Sequence[str], file: str | None) -> list[str]:
    """Return the prompts of `--prompt` and of the file of `--prompts`, which holds one a line.

    Args:
        texts: The texts behind `--prompt`.
        file: A UTF-8 text file, with or without a byte order mark; None for none.

    Raises:
        InputError: If the file is missing, is not UTF-8, or holds no prompt.
    """
    if file is None:
        return list(texts)
    path = Path(file).expanduser()
    if not path.is_file():
        raise InputError(f"--prompts {path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"--prompts {path}: not UTF-8 text; save it as UTF-8, one prompt a line") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InputError(f"--prompts {path}: holds no prompt; write one a line")
    return [*texts, *prompts]


def read_all_prompts(flags: argparse.Namespace, config: SampleConfig) -> list[str]:
    """Return the prompts of `riffusion sample`, each of which makes clips of its own.

    Raises:
        InputError: If there is none, or one where there may be none.
    """
    prompts = read_prompts(flags.prompt, flags.prompts)
    if config.mode is ModeName.walk and prompts:
        return [" → ".join(prompts)]
    if prompts and config.unconditional:
        raise InputError("unconditional=true makes clips without a prompt; leave out --prompt or the key")
    if not prompts and (config.unconditional or config.mode is ModeName.morph):
        return [""]
    if not prompts and config.mode is ModeName.long and flags.schedule:
        return [parse_schedule(flags.schedule, "--schedule")[0][1]]
    if not prompts:
        raise InputError(NO_PROMPT)
    return prompts


def parse_seconds(text: str, where: str) -> float:
    """Return a duration or a time in seconds: `90`, `90s`, `1:30`, `3min`, `1h`."""
    if match := re.fullmatch(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text.strip()):
        return 3600.0 * int(match[1] or 0) + 60.0 * int(match[2]) + float(match[3])
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|sec|min|m|h|)", text.strip())
    if not match:
        raise InputError(f"{where}: '{text.strip()}' is no time; write 90, 90s, 1:30 or 3min")
    return float(match[1]) * _UNITS_S[match[2]]


def parse_range(text: str, where: str) -> tuple[float, float]:
    """Return a range of seconds or Hertz, `0-2.5`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*[-–]\s*(\d+(?:\.\d*)?|\.\d+)\s*", text)
    if not match:
        raise InputError(f"{where} {text}: is no range; write START-END, such as 0-2.5")
    return float(match[1]), float(match[2])


def parse_schedule(text: str | None, where: str) -> tuple[tuple[float, str], ...]:
    """Return (second, text) of each part of `0s: slow piano | 30s: drums`."""
    points = []
    for part in (text or "").split("|"):
        if part.strip():
            match = re.fullmatch(r"\s*([\d.:]*\d[\d.]*\s*[a-z]*)\s*:\s(.*)", part)
            if not match:
                raise InputError(f"{where}: '{part.strip()}' has no time; write '0s: slow piano | 30s: drums'")
            points.append((parse_seconds(match[1], where), match[2].strip()))
    return tuple(points)


def _convert(key: str, value: str, kind: type) -> Any:
    if issubclass(kind, enum.Enum):
        return member(key, value, kind)
    if kind is bool:
        return choice(key, value.lower(), ("true", "false")) == "true"
    if kind is int:
        if not value.isdecimal():
            raise InputError(f"{key}={value}: not a whole number")
        return int(value)
    return value


def _flag_row(flag: Flag) -> str:
    head = f"  {flag.name} {flag.metavar}"
    return f"{head:<25}{flag.meaning}"
