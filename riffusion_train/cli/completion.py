"""`riffusion completion bash|zsh|fish`: complete verbs, flags, keys, presets and values on the command line.

The script that is printed asks `riffusion completion line LINE` at each tab. The answers come from the config's schema and the
presets in `conf/` and `--config-dir`; nothing here imports torch.
"""

import argparse
import enum
import importlib
import shlex
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from riffusion_train.cli.arguments import HELP_FLAGS, Command, parse_general_flags
from riffusion_train.cli.main import ENTRY_POINTS, VERBS
from riffusion_train.cli.train import SWEEP_FLAGS
from riffusion_train.config.compose import (
    config_keys,
    group_options,
    key_type,
    preset_folders,
    preset_groups,
    search_path,
)
from riffusion_train.runtime.errors import InputError, choice

_SCRIPTS = {
    "bash": r"""_riffusion() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\n'
    COMPREPLY=($(riffusion completion line "$line" 2>/dev/null))
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    # Bash completes what follows the = by itself.
    [[ ${line##* } == *=* && $COMP_WORDBREAKS == *=* ]] && COMPREPLY=("${COMPREPLY[@]#*=}")
}
complete -o default -o bashdefault -F _riffusion riffusion""",
    "zsh": r"""#compdef riffusion
_riffusion() {
    local -a found
    found=(${(f)"$(riffusion completion line "$LBUFFER" 2>/dev/null)"})
    if (( $#found )); then
        compadd -S '' -- ${(M)found:#*=}
        compadd -- ${found:#*=}
    else
        compset -P '*='
        _files
    fi
}
compdef _riffusion riffusion""",
    "fish": r"complete -c riffusion -a '(riffusion completion line (commandline -cp | string collect) 2>/dev/null)'",
}
_USAGE = """usage: riffusion completion bash|zsh|fish

Prints a script that completes verbs, flags, keys, presets and values of riffusion at the tab key. To load it in every shell:
  bash  echo 'eval "$(riffusion completion bash)"' >> ~/.bashrc
  zsh   echo 'eval "$(riffusion completion zsh)"' >> ~/.zshrc      # after compinit
  fish  riffusion completion fish > ~/.config/fish/completions/riffusion.fish"""


def main(arguments: Sequence[str]) -> None:
    """Run the verb.

    Raises:
        InputError: If the shell is not one of those that are known.
    """
    if any(argument in HELP_FLAGS for argument in arguments[:1]):
        print(_USAGE)
    elif arguments[:1] == ["line"]:
        print("\n".join(candidates(" ".join(arguments[1:]))))
    elif len(arguments) == 1:
        print(_SCRIPTS[choice("shell", arguments[0], _SCRIPTS)])
    else:
        raise InputError("name the shell: riffusion completion bash|zsh|fish")


def candidates(line: str) -> list[str]:
    """Return what can stand at the end of a command line, sorted; nothing where it is a file or a text.

    Args:
        line: The line from `riffusion` up to the cursor.
    """
    before, current = _split(line)
    verb, *rest = before or [""]
    if not before:
        return _beginning_with(current, [*VERBS, "--help", "--version"])
    if verb not in VERBS:
        return []
    commands = _commands(verb)
    actions = [name.split()[1] for name in commands if " " in name]
    command = commands.get(f"{verb} {rest[0]}") if rest else None
    command = command or commands.get(verb)
    if command is None:
        known = {"completion": sorted(_SCRIPTS)}.get(verb, actions)
        return _beginning_with(current, [*known, "--help"]) if not rest else []
    if rest and rest[-1] in _flags_with_value(command):
        return _beginning_with(current, {"--cfg": ["job"]}.get(rest[-1], []))
    if current.startswith("-"):
        return _beginning_with(current, _flags(command))
    key, separator, _ = current.partition("=")
    if separator:
        return _beginning_with(current, [f"{key}={value}" for value in _values(command, key.lstrip("+"), rest)])
    groups = preset_groups(command.config_name) if command.has_presets else []
    keys = [f"{key}=" for key in (*config_keys(command.root), *groups)]
    return _beginning_with(current, [*keys, *([] if rest else actions)])


def _split(line: str) -> tuple[list[str], str]:
    """Return the words after `riffusion` that are complete, and the one that the line ends in."""
    for closed in (line, f"{line}'", f'{line}"'):
        try:
            words = shlex.split(closed)
            break
        except ValueError:  # a quotation that is still open
            continue
    else:
        words = line.split()
    current = "" if (line[-1:].isspace() and closed == line) or len(words) < 2 else words.pop()
    return words[1:], current


def _commands(verb: str) -> dict[str, Command[Any]]:
    """Return the commands of a verb by their names."""
    module = importlib.import_module(f"riffusion_train.cli.{ENTRY_POINTS.get(verb, (verb, ''))[0]}")
    values = [
        one for value in vars(module).values() for one in (value.values() if isinstance(value, dict) else [value])
    ]
    return {one.name: one for one in values if isinstance(one, Command) and one.name.split()[0] == verb}


def _flags_with_value(command: Command[Any]) -> list[str]:
    swept = (
        [flag for flag in SWEEP_FLAGS if flag not in ("--multirun", "--maximize")] if command.name == "train" else []
    )
    return [*(flag.name for flag in command.flags), "--cfg", "--config-dir", *swept]


def _flags(command: Command[Any]) -> list[str]:
    swept = SWEEP_FLAGS if command.name == "train" else ()
    presets = ["--config-dir"] if command.has_presets else []
    return [*(flag.name for flag in command.flags), "--help", "--show", "--cfg", *presets, *swept]


def _values(command: Command[Any], key: str, rest: Sequence[str]) -> Iterator[str]:
    """Yield the presets of a group, the members of an enum, or true and false."""
    if command.has_presets and key in preset_groups(command.config_name):
        try:
            flags, others = parse_general_flags(rest)
            folders = preset_folders([*search_path(flags.config_dir), *others])
        except (InputError, argparse.ArgumentError):
            folders = list[Path]()
        yield from group_options(key, folders)
        return
    kind = key_type(command.root, key)
    for one in typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        if isinstance(one, type) and issubclass(one, enum.Enum):
            yield from one.__members__
        elif one is bool:
            yield from ("true", "false")


def _beginning_with(start: str, names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(start)})
