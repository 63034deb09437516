"""Stopping on request: Ctrl-C and SIGTERM end the loop after the step that is being done."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """Remembers that a stop was asked for. A second Ctrl-C interrupts at once. Use as a context manager."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
