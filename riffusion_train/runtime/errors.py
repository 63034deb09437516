"""The exceptions that end a command on purpose, and the exit codes they stand for."""

from collections.abc import Iterable

EXIT_DONE = 0
EXIT_FAULT = 1
EXIT_INPUT = 2
EXIT_STOPPED = 3


class InputError(Exception):
    """The user's input cannot be used. The message is one line: it names the file or key, and the mend."""


class StoppedError(Exception):
    """The job was asked to stop and did so with its state saved. The message says how to go on."""


def choice(key: str, value: str, choices: Iterable[str]) -> str:
    """Return the value where it is one of the choices.

    Raises:
        InputError: If it is not; the message names them.
    """
    names = list(choices)
    if value not in names:
        raise InputError(f"{key}={value} is unknown; choose from: {', '.join(names)}")
    return value
