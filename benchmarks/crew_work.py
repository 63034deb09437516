"""What worker processes do for the benchmark of two cores. Imports nothing heavy, since each process imports it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_prep.tracks.track_worker import WorkerSetup


def make_forgetful_worker(setup: "WorkerSetup") -> Callable[[str], Any]:
    """Build the worker of a run, but one that keeps nothing, so that each track is work every time."""
    from data_prep.tracks.track_worker import make_track_worker

    worker = make_track_worker(setup)

    def work(locator: str) -> Any:
        result = worker(locator)
        for stored in setup.store.folder.glob("*.arrow"):
            stored.unlink(missing_ok=True)
        return result

    return work


def make_bare_work(setup: None) -> Callable[[int], float]:
    """Build arithmetic in the first-level cache: what the machine gives two processes at best."""
    import numpy as np

    def work(rounds: int) -> float:
        values = np.linspace(0.0, 1.0, 1000)
        for _ in range(rounds):
            values = np.sqrt(values * values + 1e-3)
        return float(values.sum())

    return work
