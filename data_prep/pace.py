"""How a run gets on: hours, speed, slices and rejects, for the bar."""

import time
from collections.abc import Callable

from data_prep.kept import TrackFacts


class Pace:
    """Counts what comes back from the workers.

    Args:
        clock: Seconds from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_s = clock()
        self._slices = self._rejects = 0
        self._audio_s = self._reused_s = 0.0

    def add(self, fact: TrackFacts) -> None:
        """Count one track."""
        self._slices += fact.slices
        self._rejects += fact.reason is not None
        self._audio_s += fact.duration_s or 0.0
        if fact.reused:
            self._reused_s += fact.duration_s or 0.0

    def figures(self) -> str:
        """Return for example `1.25 h, 84× real time, 812 slices, 3 rejected`.

        The speed is that of the tracks that were decoded now; those that were kept of an earlier run would flatter it.
        """
        passed_s = self._clock() - self._start_s
        now_s = self._audio_s - self._reused_s
        speed = f"{now_s / passed_s:.3g}× real time, " if now_s and passed_s > 0 else ""
        rejects = f", {self._rejects} rejected" if self._rejects else ""
        return f"{self._audio_s / 3600:.2f} h, {speed}{self._slices} slices{rejects}"
