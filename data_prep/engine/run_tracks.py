"""All tracks through the workers, here, in processes or on a cluster, with progress, stoppable."""

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from data_prep.engine.process_pool import WorkerDied, run_here, run_in_processes
from data_prep.engine.ray_cluster import TaskLost, connected, run_on_ray
from data_prep.inputs.fetch import is_local
from data_prep.inputs.tracks import Sources
from data_prep.output.folder import Output
from data_prep.output.track_store import TrackResult, parameters_key
from data_prep.run import cut_data, make_cut_parameters
from data_prep.tracks.track_worker import WorkerSetup, make_track_worker, one_thread
from riffusion_train.config.prepare import Engine, PrepareConfig
from riffusion_train.runtime.errors import StoppedError
from riffusion_train.runtime.progress import ProgressReport
from riffusion_train.runtime.provenance import usable_cores

_Run = Callable[[WorkerSetup, Sequence[str], Path, Callable[[], bool]], Generator[tuple[int, object], None, None]]


def work_on_tracks(config: PrepareConfig, sources: Sources, output: Output) -> list[TrackResult]:
    """Cut every track that is not rejected already. Returns what became of each track, in their order.

    Raises:
        StoppedError: On SIGINT or SIGTERM.
        OSError: If the disk is full.
    """
    cut = make_cut_parameters(config)
    setup = WorkerSetup(cut, str(output.tracks.absolute()), parameters_key(cut_data(cut)))
    facts = [
        TrackResult("", reason=track.rejection.reason, detail=track.rejection.detail) if track.rejection else None
        for track in sources.tracks
    ]
    todo = [index for index, fact in enumerate(facts) if fact is None]
    paths = [sources.tracks[index].locator for index in todo]
    pace, done = RunStats(), 0
    with _engine(config) as engine, _stop_signals() as stop, ProgressReport("prepare tracks", len(todo)) as progress:
        results = engine(setup, paths, output.work / "workers.log", stop.is_set)
        with contextlib.closing(results):
            for number, result in results:
                fact = _fact_of(result)
                facts[todo[number]] = fact
                pace.add(fact)
                done += 1
                progress.update(done, pace.figures())
                if stop.is_set():
                    break
    if done < len(todo):
        raise StoppedError(f"{done} of {len(todo)} tracks are kept; the same command goes on")
    return [fact for fact in facts if fact is not None]


@contextlib.contextmanager
def _engine(config: PrepareConfig) -> Iterator[_Run]:
    """Give what runs the tasks: `engine=` and `num_workers=` decide."""
    match config.engine:
        case Engine.local:
            yield functools.partial(_run_locally, config.num_workers)
        case Engine.ray:
            with connected(config.ray_address):
                yield functools.partial(_run_on_ray, config.num_workers)


def _run_locally(
    num_workers: int | None, setup: WorkerSetup, paths: Sequence[str], log: Path, stopped: Callable[[], bool]
) -> Generator[tuple[int, object], None, None]:
    if num_workers == 0:
        with one_thread():
            yield from run_here(make_track_worker, setup, paths)
        return
    crew = num_workers or usable_cores()
    yield from run_in_processes(make_track_worker, setup, paths, crew, log, stopped)


def _run_on_ray(
    num_workers: int | None, setup: WorkerSetup, paths: Sequence[str], log: Path, stopped: Callable[[], bool]
) -> Generator[tuple[int, object], None, None]:
    folders = [str(Path(path).parent) for path in paths if is_local(path)]
    common = os.path.commonpath(folders) if folders else None
    yield from run_on_ray(make_track_worker, setup, paths, num_workers, log, stopped, common)


def _fact_of(result: object) -> TrackResult:
    if isinstance(result, WorkerDied):
        return TrackResult("", reason="decoder crashed", detail=str(result))
    if isinstance(result, TaskLost):
        return TrackResult("", reason="node lost", detail=str(result))
    assert isinstance(result, TrackResult)
    return result


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into an event; a second one acts as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask_to_stop(number: int, frame: object) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)

    for number in before:
        signal.signal(number, ask_to_stop)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


class RunStats:
    """Counts what comes back from the workers.

    Args:
        clock: Seconds from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_s = clock()
        self._slices = self._rejects = 0
        self._audio_s = self._reused_s = 0.0

    def add(self, fact: TrackResult) -> None:
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
