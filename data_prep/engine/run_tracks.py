"""Running all tracks through workers, with progress and stop requests, in one run or as the parts of an array job.

`part=3/8` prepares a share of the tracks, and `riffusion prepare merge` makes the dataset of all parts. A part decodes and
cuts its tracks, and decides nothing: splits, duplicates and balance need all tracks. Which part a track belongs to depends on
its name alone, so more audio moves no other track to another part. The merged dataset is equal, byte for byte, to that of a
single run.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.engine.workers import ShareDone, TaskLost, WorkerDied, connected, run_here, run_in_processes, run_on_ray
from data_prep.inputs.captioning import tracks_to_hear
from data_prep.inputs.storage import is_local
from data_prep.inputs.tracks import Rejection, Sources, Track
from data_prep.output.finish import find_complete, finish_dataset, push_dataset
from data_prep.output.folder import OutputFolder, PrepareRun, read_parameters, refuse_differences
from data_prep.tracks.track_store import RemoteTrackStore, TrackResult, TrackStore
from data_prep.tracks.track_worker import WorkerSetup, make_track_worker, one_thread
from riffusion_train.config.compose import load_saved, write_config
from riffusion_train.config.prepare import OUT_FIX, CaptionCheck, Engine, MergeConfig, PrepareConfig, parse_part
from riffusion_train.dataset.layout import SCHEMA_VERSION, WORK_DIR, DatasetFolder
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.runtime.files import refuse_url, write_json
from riffusion_train.runtime.hub import check_repository
from riffusion_train.runtime.progress import ProgressReport, StopRequest
from riffusion_train.runtime.provenance import usable_cores

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
            if isinstance(answer, ShareDone):
                stats.note_share(number, answer.share)
            else:
                result = results[pending[number]] = _result_of(answer)
                stats.add(result, number)
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
    shared_log = None if isinstance(setup.store, RemoteTrackStore) else log
    yield from run_on_ray(make_track_worker, setup, locators, num_workers, shared_log, stopped, common)


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
        self._shares: dict[int, float] = {}

    def note_share(self, number: int, share: float) -> None:
        """Note how much of a long track is done, from 0 to 1, by the track's number."""
        self._shares[number] = share

    def add(self, result: TrackResult, number: int | None = None) -> None:
        """Count one track, which is done."""
        self._shares.pop(-1 if number is None else number, None)
        self._slices += result.slices
        self._rejected += result.reason is not None
        self._audio_s += result.duration_s or 0.0
        if result.reused:
            self._reused_s += result.duration_s or 0.0

    def figures(self) -> str:
        """Return for example `1.25 h, 84× real time, 812 slices, 3 rejected; long tracks at 34%`.

        The speed is that of the tracks that were decoded in this run; reused ones would flatter it.
        """
        elapsed_s = self._clock() - self._start_s
        decoded_s = self._audio_s - self._reused_s
        speed = f"{decoded_s / elapsed_s:.3g}× real time, " if decoded_s and elapsed_s > 0 else ""
        rejected = f", {self._rejected} rejected" if self._rejected else ""
        shares = ", ".join(f"{share:.0%}" for share in self._shares.values())
        long = f"; long tracks at {shares}" if shares else ""
        return f"{self._audio_s / 3600:.2f} h, {speed}{self._slices} slices{rejected}{long}"


_PART_FILE = "part.json"
_CONFIG_FILE = "config.yaml"
_MOST_NAMED = 5
"""Missing parts that are named in a message."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A finished part: the content of its `part.json`, and its folder."""

    folder: Path
    number: int
    count: int
    arguments: list[str]
    """The command line after the verb."""
    parameters: dict[str, Any]
    license: str
    digest: str
    """Hash of all sources, not only of those of this part."""
    extra_types: dict[str, str]
    tracks: list[Track]
    results: list[TrackResult]
    language: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Return the content of `part.json`, in the format of version 0.1.0."""
        return {
            "schema_version": SCHEMA_VERSION,
            **{"number": self.number, "count": self.count, "words": self.arguments, "parameters": self.parameters},
            **{"license": self.license, "digest": self.digest, "extra_types": self.extra_types},
            **({"language": self.language} if self.language else {}),
            "tracks": [dataclasses.asdict(track) for track in self.tracks],
            "facts": [dataclasses.asdict(result) for result in self.results],
        }


def _parts_dir(out: Path) -> Path:
    """Return the folder of all parts of a dataset: beside it."""
    return out.with_name(f"{out.name}.parts")


def part_of(source: str, count: int) -> int:
    """Return the number of the part, from 1, that a track belongs to."""
    return int.from_bytes(hashlib.sha256(f"part\n{source}".encode()).digest()[:8], "big") % count + 1


def run_part(run: PrepareRun) -> Path:
    """Decode and cut the tracks of one part. Returns its folder.

    Args:
        run: The run, with all tracks, and with `part` in its config.

    Raises:
        InputError: If the folder holds a part with other settings.
        StoppedError: On SIGINT or SIGTERM; the same command continues.
        OSError: If the disk is full; the same command continues.
    """
    config, sources = run.config, run.sources
    number, count = parse_part(config.part or "")
    folder = _parts_dir(run.out) / f"{number}-of-{count}"
    output = OutputFolder(folder)
    begun = read_parameters(output.parameters_file)
    if begun is not None and not config.overwrite:
        refuse_differences(begun, run.parameters, folder)
    done = _read_part(folder) if (folder / _PART_FILE).is_file() and not config.overwrite else None
    same_card = done is not None and (done.license, done.language) == (config.license, config.language)
    if done and same_card and (done.parameters, done.digest) == (run.parameters, run.digest):
        print(f"{folder} is complete: {len(done.tracks)} tracks; nothing to do")
        return folder
    with output.locked():
        output.record(run.parameters)
        (folder / _PART_FILE).unlink(missing_ok=True)
        own = [track for track in sources.tracks if part_of(track.source, count) == number]
        own_run = dataclasses.replace(run, sources=Sources(own, sources.extra_types))
        results = run_tracks(own_run, output)
        write_config(folder / _CONFIG_FILE, config)
        part = Part(
            *(folder, number, count, list(run.arguments), run.parameters, config.license, run.digest),
            *(sources.extra_types, own, results, config.language),
        )
        write_json(folder / _PART_FILE, part.as_data(), sync=True)
    print(f"{folder}: {len(own)} of {len(sources.tracks)} tracks, {sum(result.slices for result in results)} slices")
    print(f"  with all {count} parts: riffusion prepare merge out={config.out}")
    return folder


def _read_part(folder: Path) -> Part:
    """Read a finished part.

    Raises:
        InputError: If the folder is missing, unfinished, damaged, or not a part.
    """
    path = folder / _PART_FILE
    if not path.is_file():
        if (folder / WORK_DIR).is_dir():
            number, _, count = folder.name.partition("-of-")
            which = f" with part={number}/{count}" if count else ""
            raise InputError(f"{folder}: this part is unfinished; run its riffusion prepare command again{which}")
        problem = "not a part of a dataset" if folder.is_dir() else "no such folder"
        raise InputError(f"{folder}: {problem}; parts are made with riffusion prepare … part=1/8")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("schema_version") != SCHEMA_VERSION:
            raise InputError(f"{path}: made by another version of riffusion-train; make the part with this one")
        tracks = [_read_track(fields) for fields in data.pop("tracks")]
        results = [TrackResult(**fields) for fields in data.pop("facts")]
        return Part(folder, arguments=data.pop("words"), tracks=tracks, results=results, **data)
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged; delete it and run the part's command again") from None


def _read_track(fields: dict[str, Any]) -> Track:
    rejection = fields.pop("rejection")
    return Track(
        **fields
        | {
            "captions": tuple(fields["captions"]),
            "slice_captions": tuple(map(tuple, fields.get("slice_captions", ()))),
            "rejection": Rejection(**rejection) if rejection else None,
        }
    )


def run_merge(config: MergeConfig, folders: Sequence[str] = (), endpoint: str | None = None) -> DatasetFolder:
    """Make one dataset of all parts, and upload it if the config says so.

    Args:
        config: Where the dataset goes.
        folders: The parts, or folders of parts; none takes `<out>.parts`.
        endpoint: Address of the Hub; None is the public one.

    Raises:
        InputError: If parts are missing, unfinished, or do not belong together.
        OSError: If the disk is full; the same command continues.
    """
    refuse_url("out=", config.out, OUT_FIX)
    for name in folders:
        refuse_url("", name, "copy the part here")
    if config.push_to_hub is not None:
        check_repository(config.push_to_hub)
    listed = [Path(name) for name in folders] or [_parts_dir(Path(config.out))]
    parts = [_read_part(folder) for folder in _part_folders(listed)]
    _check_parts(parts)
    folder = _merge_parts(parts, config)
    if config.push_to_hub is not None:
        print(
            push_dataset(folder, config.push_to_hub, private=config.private, page=config.push_page, endpoint=endpoint)
        )
    return folder


def _merge_parts(parts: Sequence[Part], config: MergeConfig) -> DatasetFolder:
    """Make one dataset of all its parts; `_check_parts` must have accepted them."""
    first = parts[0]
    saved = load_saved(first.folder / _CONFIG_FILE, PrepareConfig)
    pairs = [pair for part in parts for pair in zip(part.tracks, part.results, strict=True)]
    pairs.sort(key=lambda pair: pair[0].source)
    run = PrepareRun(
        config=dataclasses.replace(saved, out=config.out, part=None, overwrite=config.overwrite),
        sources=Sources([track for track, _ in pairs], first.extra_types),
        parameters=first.parameters,
        digest=first.digest,
        arguments=tuple(first.arguments),
    )
    output = OutputFolder(run.out)
    complete = find_complete(run, output)
    if complete is not None:
        return complete
    with output.locked():
        output.begin(run.parameters)
        for part in parts:
            _collect_slices(part, output.store(run.key))
        return finish_dataset(run, [result for _, result in pairs], output)


def _collect_slices(part: Part, store: TrackStore) -> None:
    """Link or copy the slices of a part into the store of the whole dataset."""
    own_store = OutputFolder(part.folder).store(store.key)
    for track, result in zip(part.tracks, part.results, strict=True):
        own_store.share(result.file_hash, store)
        if result.slices and store.read(result.file_hash) is None:
            raise InputError(
                f"{part.folder} lacks the slices of {track.source}; delete its {_PART_FILE} and run its command again"
            )


def _check_parts(parts: Sequence[Part]) -> None:
    """Check that these are all parts of one dataset.

    Raises:
        InputError: Naming the first part that differs, or those that are missing.
    """
    first = parts[0]
    seen: dict[int, Part] = {}
    for part in parts:
        if part.count != first.count:
            raise InputError(
                f"{part.folder} is one of {part.count} parts, {first.folder} one of {first.count}; delete those of "
                "one kind"
            )
        if part.number in seen:
            raise InputError(f"{seen[part.number].folder} and {part.folder} are the same part; leave out one")
        refuse_differences(
            {**first.parameters, "license": first.license, "language": first.language},
            {**part.parameters, "license": part.license, "language": part.language},
            first.folder,
            fix=f"make {part.folder} again with the same settings, with overwrite=true",
        )
        if part.digest != first.digest:
            raise InputError(
                f"{part.folder} found other files or captions than {first.folder}; run the commands of all parts again"
            )
        seen[part.number] = part
    missing = [f"{number}/{first.count}" for number in range(1, first.count + 1) if number not in seen]
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        shown = ", ".join(missing[:_MOST_NAMED])
        raise InputError(f"missing: part {shown}{more}; run riffusion prepare … part={missing[0]}, or name its folder")


def _part_folders(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of single parts; a folder that holds parts stands for all of them."""
    parts = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; make parts with riffusion prepare … part=1/8, or name theirs")
        is_part = (folder / _PART_FILE).is_file() or (folder / WORK_DIR).is_dir()
        inside = [] if is_part else sorted(folder.iterdir())
        parts += [path for path in inside if path.is_dir()] or [folder]
    return parts
