"""Array jobs: `part=3/8` prepares a share of the tracks, and `riffusion prepare merge` makes the dataset of all parts.

A part decodes and cuts its tracks, and decides nothing: splits, duplicates and balance need all tracks. Which part a track
belongs to depends on its name alone, so more audio moves no other track to another part. The merged dataset is equal, byte
for byte, to that of a single run.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.engine.run_tracks import run_tracks
from data_prep.inputs.tracks import Rejection, Sources, Track
from data_prep.output.finish import find_complete, finish_dataset, push_dataset
from data_prep.output.folder import OutputFolder
from data_prep.run import PrepareRun, read_parameters, refuse_differences
from data_prep.tracks.track_store import TrackResult, TrackStore
from riffusion_train.config.compose import load_saved, write_config
from riffusion_train.config.prepare import OUT_FIX, MergeConfig, PrepareConfig, parse_part
from riffusion_train.dataset.layout import SCHEMA_VERSION, WORK_DIR, DatasetFolder
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import refuse_url, write_json
from riffusion_train.runtime.hub import check_repository

PART_FILE = "part.json"
CONFIG_FILE = "config.yaml"
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


def parts_dir(out: Path) -> Path:
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
    folder = parts_dir(run.out) / f"{number}-of-{count}"
    output = OutputFolder(folder)
    begun = read_parameters(output.parameters_file)
    if begun is not None and not config.overwrite:
        refuse_differences(begun, run.parameters, folder)
    done = read_part(folder) if (folder / PART_FILE).is_file() and not config.overwrite else None
    same_card = done is not None and (done.license, done.language) == (config.license, config.language)
    if done and same_card and (done.parameters, done.digest) == (run.parameters, run.digest):
        print(f"{folder} is complete: {len(done.tracks)} tracks; nothing to do")
        return folder
    with output.locked():
        output.record(run.parameters)
        (folder / PART_FILE).unlink(missing_ok=True)
        own = [track for track in sources.tracks if part_of(track.source, count) == number]
        own_run = dataclasses.replace(run, sources=Sources(own, sources.extra_types))
        results = run_tracks(own_run, output)
        write_config(folder / CONFIG_FILE, config)
        part = Part(
            *(folder, number, count, list(run.arguments), run.parameters, config.license, run.digest),
            *(sources.extra_types, own, results, config.language),
        )
        write_json(folder / PART_FILE, part.as_data(), sync=True)
    print(f"{folder}: {len(own)} of {len(sources.tracks)} tracks, {sum(result.slices for result in results)} slices")
    print(f"  with all {count} parts: riffusion prepare merge out={config.out}")
    return folder


def read_part(folder: Path) -> Part:
    """Read a finished part.

    Raises:
        InputError: If the folder is missing, unfinished, damaged, or not a part.
    """
    path = folder / PART_FILE
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
    listed = [Path(name) for name in folders] or [parts_dir(Path(config.out))]
    parts = [read_part(folder) for folder in _part_folders(listed)]
    check_parts(parts)
    folder = merge_parts(parts, config)
    if config.push_to_hub is not None:
        print(
            push_dataset(folder, config.push_to_hub, private=config.private, page=config.push_page, endpoint=endpoint)
        )
    return folder


def merge_parts(parts: Sequence[Part], config: MergeConfig) -> DatasetFolder:
    """Make one dataset of all its parts; `check_parts` must have accepted them."""
    first = parts[0]
    saved = load_saved(first.folder / CONFIG_FILE, PrepareConfig)
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
                f"{part.folder} lacks the slices of {track.source}; delete its {PART_FILE} and run its command again"
            )


def check_parts(parts: Sequence[Part]) -> None:
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
        is_part = (folder / PART_FILE).is_file() or (folder / WORK_DIR).is_dir()
        inside = [] if is_part else sorted(folder.iterdir())
        parts += [path for path in inside if path.is_dir()] or [folder]
    return parts
