"""Stopping on request: Ctrl-C and SIGTERM become a request that a long job looks at between its steps."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """Remembers that a stop was asked for by SIGINT (Ctrl-C) or SIGTERM. Use as a context manager.

    A second Ctrl-C raises `KeyboardInterrupt` at once, and further SIGTERMs change nothing. Signals reach the main thread
    only; in another thread nothing is installed, and no stop is asked for. At the end the handlers of before are back.

    Args:
        on_signal: Called with the number of each signal, instead of the `KeyboardInterrupt` for the second Ctrl-C; for
            jobs that end in another way or have a child process to tell.
    """

    def __init__(self, on_signal: Callable[[int], None] | None = None) -> None:
        self._on_signal = on_signal
        self._asked = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not set from Python
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        repeated, self._asked = self._asked, True
        if self._on_signal is not None:
            self._on_signal(number)
        elif repeated and number == signal.SIGINT:
            raise KeyboardInterrupt
