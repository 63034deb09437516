"""Progress of a long job: a bar with the time left on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_PLAIN_INTERVAL_S = 10.0


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
