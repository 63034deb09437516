"""All tracks through the workers, in processes or here, with progress, stoppable."""

import contextlib
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from data_prep.kept import TrackFacts, parameters_key
from data_prep.output import Output
from data_prep.pace import Pace
from data_prep.parameters import cut_data, make_cut_parameters
from data_prep.tracks import Sources
from data_prep.work import WorkerSetup, make_track_worker, one_thread
from data_prep.workers import WorkerDied, run_here, run_in_processes
from riffusion_train.config.errors import StoppedError
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.config.progress import ProgressReport


def work_on_tracks(config: PrepareConfig, sources: Sources, output: Output) -> list[TrackFacts]:
    """Cut every track that is not rejected already. Returns what became of each track, in their order.

    Raises:
        StoppedError: On SIGINT or SIGTERM.
        OSError: If the disk is full.
    """
    cut = make_cut_parameters(config)
    setup = WorkerSetup(cut, str(output.tracks), parameters_key(cut_data(cut)))
    facts = [
        TrackFacts("", reason=track.rejection.reason, detail=track.rejection.detail) if track.rejection else None
        for track in sources.tracks
    ]
    todo = [index for index, fact in enumerate(facts) if fact is None]
    paths = [sources.tracks[index].locator for index in todo]
    pace, done = Pace(), 0
    with _stop_signals() as stop, ProgressReport("prepare tracks", len(todo)) as progress:
        results = _run(config.num_workers, setup, paths, output.work / "workers.log", stop)
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


def _run(
    num_workers: int | None, setup: WorkerSetup, paths: Sequence[str], log: Path, stop: threading.Event
) -> Generator[tuple[int, object], None, None]:
    if num_workers == 0:
        with one_thread():
            yield from run_here(make_track_worker, setup, paths)
        return
    crew = num_workers or _usable_cores()
    yield from run_in_processes(make_track_worker, setup, paths, crew, log, stop.is_set)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux; a container may have fewer cores than the machine
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fact_of(result: object) -> TrackFacts:
    if isinstance(result, WorkerDied):
        return TrackFacts("", reason="decoder crashed", detail=str(result))
    assert isinstance(result, TrackFacts)
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
