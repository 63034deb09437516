"""Running all tracks through workers, in this process, in processes or on a cluster, with progress and stop requests."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from data_prep.engine.process_pool import WorkerDied, run_here, run_in_processes
from data_prep.engine.ray_cluster import TaskLost, connected, run_on_ray
from data_prep.inputs.captioning import tracks_to_hear
from data_prep.inputs.fetch import is_local
from data_prep.output.folder import OutputFolder
from data_prep.run import PrepareRun
from data_prep.tracks.track_store import TrackResult
from data_prep.tracks.track_worker import WorkerSetup, make_track_worker, one_thread
from riffusion_train.config.prepare import CaptionCheck, Engine, PrepareConfig
from riffusion_train.runtime.errors import StoppedError
from riffusion_train.runtime.progress import ProgressReport
from riffusion_train.runtime.provenance import usable_cores
from riffusion_train.runtime.signals import StopRequest

_RunTasks = Callable[[WorkerSetup, Sequence[str], Path, Callable[[], bool]], Generator[tuple[int, object], None, None]]
"""Runs the workers on locators, with a log file and a stop request; yields (index, result) as tasks are finished."""


def run_tracks(run: PrepareRun, output: OutputFolder) -> list[TrackResult]:
    """Cut every track that is not rejected already. Returns the result of each track, in their order.

    Args:
        run: The run, whose sources hold the tracks to cut.
        output: The output folder, locked; the slices go to its store.

    Raises:
        StoppedError: On SIGINT or SIGTERM.
        OSError: If the disk is full.
    """
    tracks = run.sources.tracks
    results = [
        TrackResult("", reason=track.rejection.reason, detail=track.rejection.detail) if track.rejection else None
        for track in tracks
    ]
    pending = [index for index, result in enumerate(results) if result is None]
    locators = [tracks[index].locator for index in pending]
    checks = run.config.check_captions is not CaptionCheck.off
    to_hear = frozenset(locators) if checks else tracks_to_hear(run.sources, run.config, run.cut.measure)
    setup = WorkerSetup(run.cut, output.store(run.key), to_hear, checks)
    stats, done = RunStats(), 0
    with (
        _engine(run.config) as run_tasks,
        StopRequest() as stop,
        ProgressReport("prepare tracks", len(pending)) as progress,
        contextlib.closing(run_tasks(setup, locators, output.work / "workers.log", lambda: stop.asked)) as answers,
    ):
        for number, answer in answers:
            result = _result_of(answer)
            results[pending[number]] = result
            stats.add(result)
            done += 1
            progress.update(done, stats.figures())
            if stop.asked:
                break
    if done < len(pending):
        raise StoppedError(f"{done} of {len(pending)} tracks are finished; the same command continues")
    return [result for result in results if result is not None]


@contextlib.contextmanager
def _engine(config: PrepareConfig) -> Iterator[_RunTasks]:
    """Yield what runs the tasks, as `engine=` and `num_workers=` say."""
    match config.engine:
        case Engine.local:
            yield functools.partial(_run_locally, config.num_workers)
        case Engine.ray:
            with connected(config.ray_address):
                yield functools.partial(_run_on_ray, config.num_workers)


def _run_locally(
    num_workers: int | None, setup: WorkerSetup, locators: Sequence[str], log: Path, stopped: Callable[[], bool]
) -> Generator[tuple[int, object], None, None]:
    if num_workers == 0:
        with one_thread():
            yield from run_here(make_track_worker, setup, locators)
        return
    yield from run_in_processes(make_track_worker, setup, locators, num_workers or usable_cores(), log, stopped)


def _run_on_ray(
    num_workers: int | None, setup: WorkerSetup, locators: Sequence[str], log: Path, stopped: Callable[[], bool]
) -> Generator[tuple[int, object], None, None]:
    folders = [str(Path(locator).parent) for locator in locators if is_local(locator)]
    common = os.path.commonpath(folders) if folders else None
    yield from run_on_ray(make_track_worker, setup, locators, num_workers, log, stopped, common)


def _result_of(answer: object) -> TrackResult:
    if isinstance(answer, WorkerDied):
        return TrackResult("", reason="decoder crashed", detail=str(answer))
    if isinstance(answer, TaskLost):
        return TrackResult("", reason="node lost", detail=str(answer))
    assert isinstance(answer, TrackResult)
    return answer


class RunStats:
    """Counts the results that come back from the workers, for the progress report.

    Args:
        clock: Returns seconds from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_s = clock()
        self._slices = self._rejected = 0
        self._audio_s = self._reused_s = 0.0

    def add(self, result: TrackResult) -> None:
        """Count one track."""
        self._slices += result.slices
        self._rejected += result.reason is not None
        self._audio_s += result.duration_s or 0.0
        if result.reused:
            self._reused_s += result.duration_s or 0.0

    def figures(self) -> str:
        """Return for example `1.25 h, 84× real time, 812 slices, 3 rejected`.

        The speed is that of the tracks that were decoded in this run; reused ones would flatter it.
        """
        elapsed_s = self._clock() - self._start_s
        decoded_s = self._audio_s - self._reused_s
        speed = f"{decoded_s / elapsed_s:.3g}× real time, " if decoded_s and elapsed_s > 0 else ""
        rejected = f", {self._rejected} rejected" if self._rejected else ""
        return f"{self._audio_s / 3600:.2f} h, {speed}{self._slices} slices{rejected}"
