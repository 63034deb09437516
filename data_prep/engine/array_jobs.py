"""`part=3/8`: the share of one task of an array job, and what it leaves for `riffusion prepare merge`.

A part decodes and cuts its tracks, and decides nothing: splits, duplicates and balance need all tracks. A track's part is a
function of its name, so that more audio moves no other track to another part.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.engine.run_tracks import work_on_tracks
from data_prep.inputs.tracks import Rejection, Sources, Track
from data_prep.output.folder import Output, json_bytes
from data_prep.output.track_store import TrackResult
from data_prep.run import read_parameters, refuse_differences
from riffusion_train.config.compose import write_config
from riffusion_train.config.prepare import PrepareConfig, parse_part
from riffusion_train.dataset.layout import SCHEMA_VERSION, WORK_DIR
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_atomically

PART_FILE = "part.json"
CONFIG_FILE = "config.yaml"


@dataclasses.dataclass(frozen=True)
class Part:
    """What a finished part tells."""

    folder: Path
    number: int
    count: int
    words: list[str]
    """The command line."""
    parameters: dict[str, Any]
    license: str
    digest: str
    """Hash of all sources, not of this part's alone."""
    extra_types: dict[str, str]
    tracks: list[Track]
    facts: list[TrackResult]

    @property
    def kept_dir(self) -> Path:
        """Where its slices are."""
        return Output(self.folder).tracks


def parts_dir(out: Path) -> Path:
    """Return the folder that the parts of a dataset lie in: beside it."""
    return out.with_name(f"{out.name}.parts")


def part_of(source: str, count: int) -> int:
    """Return the number of the part, from 1, that a track belongs to."""
    return int.from_bytes(hashlib.sha256(f"part\n{source}".encode()).digest()[:8], "big") % count + 1


def work_on_part(config: PrepareConfig, sources: Sources, parameters: Mapping[str, Any], words: Sequence[str]) -> Path:
    """Decode and cut the tracks of one part. Returns its folder.

    Args:
        config: The run's config, with `part`.
        sources: All tracks.
        parameters: All settings.
        words: The command line.

    Raises:
        InputError: If the folder holds a part of other settings.
        StoppedError: On SIGINT or SIGTERM; the same command goes on.
        OSError: If the disk is full; the same command goes on.
    """
    number, count = parse_part(config.part or "")
    folder = parts_dir(Path(config.out)) / f"{number}-of-{count}"
    output = Output(folder)
    begun = read_parameters(output.parameters_file)
    if begun is not None and not config.overwrite:
        refuse_differences(begun, parameters, folder)
    digest = sources.digest()
    done = read_part(folder) if (folder / PART_FILE).is_file() and not config.overwrite else None
    if done and done.parameters == parameters and (done.digest, done.license) == (digest, config.license):
        print(f"{folder} is complete: {len(done.tracks)} tracks; nothing to do")
        return folder
    with output.locked():
        output.note(parameters)
        (folder / PART_FILE).unlink(missing_ok=True)
        own = [track for track in sources.tracks if part_of(track.source, count) == number]
        facts = work_on_tracks(config, Sources(own, sources.extra_types), output)
        write_config(folder / CONFIG_FILE, config)
        told = {
            "schema_version": SCHEMA_VERSION,
            **{"number": number, "count": count, "words": list(words), "parameters": dict(parameters)},
            **{"license": config.license, "digest": digest, "extra_types": sources.extra_types},
            "tracks": [dataclasses.asdict(track) for track in own],
            "facts": [dataclasses.asdict(fact) for fact in facts],
        }
        write_atomically(folder / PART_FILE, json_bytes(told), sync=True)
    print(f"{folder}: {len(own)} of {len(sources.tracks)} tracks, {sum(fact.slices for fact in facts)} slices")
    print(f"  with all {count} parts: riffusion prepare merge out={config.out}")
    return folder


def read_part(folder: Path) -> Part:
    """Read a finished part.

    Raises:
        InputError: If the folder is missing, unfinished, damaged, or no part.
    """
    path = folder / PART_FILE
    if not path.is_file():
        if (folder / WORK_DIR).is_dir():
            number, _, count = folder.name.partition("-of-")
            which = f" with part={number}/{count}" if count else ""
            raise InputError(f"{folder}: this part is unfinished; run its riffusion prepare command again{which}")
        what = "not a part of a dataset" if folder.is_dir() else "no such folder"
        raise InputError(f"{folder}: {what}; parts are made with riffusion prepare … part=1/8")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told.pop("schema_version") != SCHEMA_VERSION:
            raise InputError(f"{path}: of another version of riffusion-train; make the part with this one")
        told["tracks"] = [_track(fields) for fields in told["tracks"]]
        told["facts"] = [TrackResult(**fields) for fields in told["facts"]]
        return Part(folder, **told)
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged; delete it and run the part's command again") from None


def _track(fields: dict[str, Any]) -> Track:
    rejection = fields.pop("rejection")
    return Track(
        **fields | {"captions": tuple(fields["captions"]), "rejection": Rejection(**rejection) if rejection else None}
    )
