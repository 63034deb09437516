"""What every config-driven verb shares: `--help`, `--show`, free-text flags, and composing the config."""

import argparse
import dataclasses
import textwrap
from collections.abc import Sequence
from typing import NoReturn, TypeVar

from riffusion_train.config.compose import compose, conf_dir, group_options
from riffusion_train.runtime.errors import InputError

Root = TypeVar("Root")


class FlagParser(argparse.ArgumentParser):
    """An argument parser for the words that are not `key=value`; it raises `InputError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the message instead of printing it and leaving."""
        raise InputError(message)


def parse(verb: str, root: type[Root], words: Sequence[str]) -> Root | None:
    """Compose the config of a verb that takes only `key=value` words; None when help was asked for and printed."""
    if any(word in ("-h", "--help") for word in words):
        print(help_text(verb, root))
        return None
    return compose(verb, root, words)


def help_text(verb: str, root: type, flags: str = "") -> str:
    """Return the help of a verb: its presets, and every key with its default and meaning."""
    from riffusion_train.config.reference import key_rows

    lines = [f"usage: riffusion {verb} {flags}[key=value …]", ""]
    groups = [field.name for field in dataclasses.fields(root) if (conf_dir() / field.name).is_dir()]
    if groups:
        lines += ["presets:", *(f"  {name}={'|'.join(group_options(name))}" for name in groups), ""]
    lines.append("keys:")
    for key, default, meaning in key_rows(root):
        lines += [f"  {key}={default}", *textwrap.wrap(meaning, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)]
    return "\n".join(lines)
