"""What a long job shows and heeds: its progress, and a request to stop.

Progress is a bar with the time left on a terminal, and plain lines elsewhere. Ctrl-C and SIGTERM become a request that the job
looks at between its steps. A long task in a worker process can tell how much of it is done.
"""

import contextlib
import contextvars
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_PLAIN_INTERVAL_S = 10.0


_listener: contextvars.ContextVar[Callable[[float], None] | None] = contextvars.ContextVar("listener", default=None)


def report_share(share: float) -> None:
    """Tell whoever started this task how much of it is done, from 0 to 1; nobody may listen."""
    listener = _listener.get()
    if listener is not None:
        listener(share)


@contextlib.contextmanager
def listening(listener: Callable[[float], None]) -> Iterator[None]:
    """Call a function with each share that a task reports inside a block."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


class ProgressReport:
    """Shows the progress of a job. Use as a context manager.

    Args:
        title: What is being done.
        total: Number of steps.
        done: Steps that were done before; they do not count towards the speed.
        enabled: Whether to show anything; false on all ranks but the first.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, enabled: bool = True) -> None:
        self.title = title
        self.total = total
        self._first = self._done = done
        self._enabled = enabled
        self._on_terminal = sys.stderr.isatty()
        self._start = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            disable=not (enabled and self._on_terminal),
        )
        self._task = self._bar.add_task(title, total=total, completed=done, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def done(self) -> int:
        """Steps that are done, by the last `update`."""
        return self._done

    def update(self, done: int, figures: str = "") -> None:
        """Report that `done` steps are done, with a few figures to show beside them."""
        self._done = done
        if not self._enabled:
            return
        self._bar.update(self._task, completed=done, figures=figures)
        now = time.monotonic()
        if not self._on_terminal and (now - self._last_line >= _PLAIN_INTERVAL_S or done == self.total):
            self._last_line = now
            parts = [f"{self.title}: {done}/{self.total}, {self._left(now)} left", *([figures] if figures else [])]
            print("; ".join(parts), file=sys.stderr)

    def _left(self, now: float) -> str:
        finished = self._done - self._first
        if not finished:
            return "?"
        seconds = round((now - self._start) / finished * (self.total - self._done))
        return f"{seconds // 60}:{seconds % 60:02d}"


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
