"""`prepare`: from a folder of captioned audio to a finished dataset folder, in processes, stoppable and resumable."""

import contextlib
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from data_prep.assembly import assemble
from data_prep.kept import TrackFacts, parameters_key
from data_prep.output import Output
from data_prep.parameters import cut_data, make_cut_parameters, parameters_of
from data_prep.policy import judge
from data_prep.report import counts_text, report_lines
from data_prep.sources import Sources, Track, make_sources
from data_prep.work import WorkerSetup, make_track_worker, one_thread
from data_prep.workers import WorkerDied, run_here, run_in_processes
from riffusion_train.config.errors import InputError, StoppedError
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.config.prepare_checks import check_prepare
from riffusion_train.config.progress import ProgressReport
from riffusion_train.dataset.layout import DatasetFolder, open_dataset_folder


def prepare(config: PrepareConfig, command: str = "") -> DatasetFolder:
    """Make a dataset folder, or go on with one that a stopped or killed run has begun.

    Args:
        config: What to do.
        command: The command line, for the dataset card.

    Raises:
        InputError: If the input cannot be used, or the output folder holds something else.
        StoppedError: On SIGINT or SIGTERM; the same command goes on.
        OSError: If the disk is full; the same command goes on.
    """
    check_prepare(config)
    out = Path(config.out)
    sources = make_sources(config)
    output = Output(out)
    parameters = parameters_of(config)
    digest = sources.digest()
    if output.is_complete(parameters, digest, config.overwrite):
        if output.work.is_dir():  # the last run was killed after its last rename
            with output.locked():
                output.clear()
        folder = open_dataset_folder(out)
        print(f"{out} is complete: {counts_text(folder.stats['totals'])}; nothing to do")
        return folder
    with output.locked():
        output.begin(parameters)
        facts = judge(sources.tracks, _work_on_tracks(config, sources, output), config)
        if all(fact.reason is not None for fact in facts):
            output.clear()  # nothing is worth keeping, and the mend may be another setting
            raise InputError(_why_nothing(sources.tracks, facts))
        key = parameters_key(cut_data(make_cut_parameters(config)))
        assemble(config, sources, facts, output, key, parameters, digest, command)
        output.finish()
    folder = open_dataset_folder(out)
    print("\n".join(report_lines(folder)))
    return folder


def _work_on_tracks(config: PrepareConfig, sources: Sources, output: Output) -> list[TrackFacts]:
    """Cut every track that has captions. Returns what became of each track, in their order."""
    cut = make_cut_parameters(config)
    setup = WorkerSetup(cut, str(output.tracks), parameters_key(cut_data(cut)))
    facts = [
        TrackFacts("", reason=track.rejection.reason, detail=track.rejection.detail) if track.rejection else None
        for track in sources.tracks
    ]
    todo = [index for index, fact in enumerate(facts) if fact is None]
    paths = [str(sources.tracks[index].path) for index in todo]
    slices = done = 0
    with _stop_signals() as stop, ProgressReport("prepare tracks", len(todo)) as progress:
        results = _run(config.num_workers, setup, paths, output.work / "workers.log", stop)
        with contextlib.closing(results):
            for number, result in results:
                fact = _fact_of(result)
                facts[todo[number]] = fact
                slices += fact.slices
                done += 1
                progress.update(done, f"{slices} slices")
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


def _why_nothing(tracks: Sequence[Track], facts: Sequence[TrackFacts]) -> str:
    counted = "the one track" if len(tracks) == 1 else f"any of {len(tracks)} tracks"
    return f"cannot use {counted}; the first, {tracks[0].source}: {facts[0].reason}: {facts[0].detail}"


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
