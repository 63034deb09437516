"""The exceptions that end a command on purpose, its exit codes, and the check of a value against its choices."""

import enum
from collections.abc import Iterable
from typing import TypeVar

Choice = TypeVar("Choice", bound=enum.Enum)

EXIT_DONE = 0
EXIT_FAULT = 1
EXIT_INPUT = 2
EXIT_STOPPED = 3


class InputError(Exception):
    """The user's input cannot be used. The message is one line: it names the file or key, and the fix."""


class StoppedError(Exception):
    """The job was asked to stop and did so with its state saved. The message says how to continue."""


def choice(key: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of the choices.

    Raises:
        InputError: If it is not; the message names them.
    """
    names = list(choices)
    if value not in names:
        raise InputError(f"{key}={value} is unknown; choose from: {', '.join(names)}")
    return value


def member(key: str, value: Choice | str, kind: type[Choice]) -> Choice:
    """Return `value` as a member of an enum: itself, or the member of that name.

    Raises:
        InputError: If there is no such member; the message names them.
    """
    return value if isinstance(value, kind) else kind[choice(key, str(value), kind.__members__)]


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
