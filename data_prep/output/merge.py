"""`riffusion prepare merge`: the parts of an array job to the dataset that one run would have made, byte for byte."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from data_prep.engine.array_jobs import CONFIG_FILE, PART_FILE, Part, parts_dir, read_part
from data_prep.inputs.tracks import Sources
from data_prep.output.finish import find_complete, finish_dataset, push_dataset
from data_prep.output.folder import Output
from data_prep.output.track_store import kept_path, parameters_key, read_facts
from data_prep.run import command_line, cut_data, make_cut_parameters, refuse_differences
from riffusion_train.config.compose import load_saved
from riffusion_train.config.prepare import MergeConfig, PrepareConfig
from riffusion_train.dataset.layout import WORK_DIR, DatasetFolder
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import link_or_copy
from riffusion_train.runtime.hub import check_repository


def run_merge(config: MergeConfig, folders: Sequence[str] = (), endpoint: str | None = None) -> DatasetFolder:
    """Make one dataset of all parts, and upload it where that is asked for.

    Args:
        config: Where it goes.
        folders: The parts, or folders of parts; none takes `<out>.parts`.
        endpoint: The hub's address; None is the usual one.

    Raises:
        InputError: If parts are missing, unfinished, or do not belong together.
        OSError: If the disk is full; the same command goes on.
    """
    if config.push_to_hub is not None:
        check_repository(config.push_to_hub)
    out = Path(config.out)
    parts = [read_part(folder) for folder in _part_folders([Path(name) for name in folders] or [parts_dir(out)])]
    check_parts(parts)
    folder = merge(parts, config)
    if config.push_to_hub is not None:
        print(push_dataset(folder, config.push_to_hub, private=config.private, endpoint=endpoint))
    return folder


def merge(parts: Sequence[Part], config: MergeConfig) -> DatasetFolder:
    """Make one dataset of all its parts, which `check_parts` has found to belong together."""
    first, out = parts[0], Path(config.out)
    made = load_saved(first.folder / CONFIG_FILE, PrepareConfig)
    whole = dataclasses.replace(made, out=config.out, part=None, overwrite=config.overwrite)
    pairs = [pair for part in parts for pair in zip(part.tracks, part.facts, strict=True)]
    pairs.sort(key=lambda pair: pair[0].source)
    sources = Sources([track for track, _ in pairs], first.extra_types)
    output = Output(out)
    complete = find_complete(output, first.parameters, first.digest, config.overwrite, whole.license)
    if complete is not None:
        return complete
    with output.locked():
        output.begin(first.parameters)
        key = parameters_key(cut_data(make_cut_parameters(whole)))
        for part in parts:
            _lay_kept(part, output, key)
        command = command_line(first.words, out) if first.words else ""
        return finish_dataset(whole, sources, [fact for _, fact in pairs], output, first.parameters, command)


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
            {**first.parameters, "license": first.license},
            {**part.parameters, "license": part.license},
            first.folder,
            mend=f"make {part.folder} anew with the same settings, with overwrite=true",
        )
        if part.digest != first.digest:
            raise InputError(
                f"{part.folder} found other files or captions than {first.folder}; run the commands of all parts again"
            )
        seen[part.number] = part
    missing = [f"{number}/{first.count}" for number in range(1, first.count + 1) if number not in seen]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        shown = ", ".join(missing[:5])
        raise InputError(f"missing: part {shown}{more}; run riffusion prepare … part={missing[0]}, or name its folder")


def _part_folders(folders: Sequence[Path]) -> list[Path]:
    """Return the parts' own folders, of a folder that holds parts all of them."""
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; make parts with riffusion prepare … part=1/8, or name theirs")
        inside = [] if (folder / PART_FILE).is_file() or (folder / WORK_DIR).is_dir() else sorted(folder.iterdir())
        found += [path for path in inside if path.is_dir()] or [folder]
    return found


def _lay_kept(part: Part, output: Output, key: str) -> None:
    """Give the slices of a part a second name where the dataset is assembled."""
    for track, fact in zip(part.tracks, part.facts, strict=True):
        path = kept_path(part.kept_dir, fact.file_hash, key)
        if path.is_file():
            link_or_copy(path, output.tracks / path.name)
        if fact.slices and read_facts(output.tracks / path.name) is None:
            raise InputError(
                f"{part.folder} lacks the slices of {track.source}; delete its {PART_FILE} and run its command again"
            )
