"""How far a long job is: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

_LINE_EVERY_S = 5.0


class Progress:
    """Shows how many of `total` are done. Use it as a context manager."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = 0
        self._first = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(title, total=total)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, note: str = "") -> None:
        """Count one more as done; `note` is shown beside."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=f"{self._title} {note}".strip())
            return
        now = time.monotonic()
        if self._done == 1:  # the first one waited for the workers to start, so it says nothing about the pace
            self._first = now
            return
        if self._done == self._total or now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            rate = (self._done - 1) / max(now - self._first, 1e-9)
            left = f", {(self._total - self._done) / rate:.0f} s left" if self._done < self._total else ""
            text = f"{self._title}: {self._done} of {self._total} {self._unit}{', ' + note if note else ''}"
            print(f"{text}, {rate:.1f} a second{left}", file=sys.stderr, flush=True)
