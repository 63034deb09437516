"""What goes in: audio files, each with its captions and what tables, sidecars, tags and names say about it."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from data_prep.captions.sidecars import read_sidecars
from data_prep.inputs.fetch import PREFIX, dataset_sources
from data_prep.inputs.storage import LocalFolder, Place, is_url, make_place, one_line
from data_prep.inputs.tables import TABLE_NAMES, ColumnNames, Table, TableRow, parse_table, read_table
from data_prep.inputs.tracks import Rejection, Sources, Track, with_columns
from riffusion_train.config.prepare import CaptionSource, PrepareConfig
from riffusion_train.runtime.errors import InputError


def find_sources(config: PrepareConfig) -> Sources:
    """Find the audio files that a config names, with the captions that stand in tables and sidecars.

    Raises:
        InputError: If there is no audio, or the table cannot be used.
    """
    if config.audio.startswith(PREFIX):
        return dataset_sources(config.audio, column_names(config))
    place = make_place(config.audio, Path(config.out))
    table = find_table(config, place)
    return sidecar_sources(place) if table is None else table_sources(place, table)


def sidecar_sources(place: Place) -> Sources:
    """Find audio files, captioned by `.txt` and `.json` files beside them."""
    names = place.audio()
    if not names:
        raise _no_audio(place)
    tracks = []
    for name in names:
        locator = place.locate(name)
        if locator is None:
            missing = Rejection("file not found", f"{place.label} names it, and it is not there")
            tracks.append(Track(name, name, name, rejection=missing))
            continue
        beside = read_sidecars(place, name)
        rejection = Rejection("caption unreadable", beside.problem) if beside.problem else None
        lacking = f"{beside.found} is empty" if beside.found else f"there is no {Path(name).stem}.txt beside it"
        tracks.append(
            Track(
                *(locator, name, name, beside.captions, beside.columns),
                rejection=rejection,
                lacking=f"{lacking}; write one",
                size=place.size(locator),
            )
        )
    sources = Sources(_with_track_ids(tracks), {})
    return with_columns(sources, [{}] * len(tracks)) if any(track.columns for track in tracks) else sources


def table_sources(place: Place, table: Table) -> Sources:
    """Find audio files that a table names, and those of the place that it does not name."""
    beside = None if is_url(table.where) else LocalFolder(Path(table.where).parent, Path())
    table_name = PurePosixPath(table.where.replace("\\", "/")).name
    rows: dict[str, tuple[str, TableRow]] = {}
    tracks = []
    for file, row in table.rows.items():
        locator = file if is_url(file) else place.locate(file) or (beside.locate(file) if beside else None)
        if locator is None:
            source = file.replace("\\", "/")
            missing = Rejection("file not found", f"{table_name} names it, {place.label} does not hold it")
            tracks.append(Track(source, source, source, rejection=missing))
        elif locator in rows:
            raise InputError(f"{table.where}: '{rows[locator][0]}' and '{file}' are the same file; write it one way")
        else:
            rows[locator] = (file, row)
    found = {locator for name in place.audio() if (locator := place.locate(name)) is not None}
    if not found and not rows:
        raise _no_audio(place)
    for locator in sorted(found | set(rows)):
        row = rows[locator][1] if locator in rows else TableRow((), {}, None, None)
        what = "the row has no caption" if locator in rows else "it has no row"
        source = place.name_of(locator)
        columns = row.columns or dict.fromkeys(table.types)
        lacking = f"{what} in {table_name}; add it"
        known = Track(locator, source, source, row.captions, columns, row.artist, row.split)
        tracks.append(dataclasses.replace(known, lacking=lacking, size=place.size(locator)))
    return Sources(_with_track_ids(tracks), table.types)


def column_names(config: PrepareConfig) -> ColumnNames:
    """Return which columns of a table a config gives a meaning to."""
    # Where captions may come from elsewhere, a table without them is one of facts.
    elsewhere = config.caption_template or config.default_caption or config.captions is CaptionSource.tags
    return ColumnNames(
        *(config.file_column, config.caption_column, config.artist_column, config.split_column),
        needs_caption=not elsewhere,
    )


def find_table(config: PrepareConfig, place: Place) -> Table | None:
    """Read the table of captions that a config names, or that lies in the place; None where there is none.

    Raises:
        InputError: If it cannot be read, or several are there.
    """
    names = column_names(config)
    if config.captions is CaptionSource.sidecar:
        return None
    if config.table is not None:
        inside = place.locate(config.table)
        if Path(config.table).is_file():
            return read_table(Path(config.table), names)
        if inside is None:
            raise InputError(f"table={config.table}: no such file here or in {place.label}")
        return _read_there(place, config.table, inside, names)
    there = [(name, locator) for name in TABLE_NAMES if (locator := place.locate(name)) is not None]
    if len(there) > 1:
        raise InputError(f"{place.label} holds {' and '.join(name for name, _ in there)}; choose one with table=")
    if not there and config.captions is CaptionSource.table:
        raise InputError(f"{place.label} holds none of {', '.join(TABLE_NAMES)}; name the table with table=")
    return _read_there(place, *there[0], names) if there else None


def _read_there(place: Place, name: str, locator: str, names: ColumnNames) -> Table:
    if is_url(name):
        import fsspec

        try:
            with fsspec.open(name, "rb") as file:
                return parse_table(name, file.read(), names)
        except (OSError, ImportError, ValueError) as error:
            raise InputError(f"table={name}: {one_line(error)}") from None
    if not is_url(locator):
        return read_table(Path(locator), names)
    try:
        return parse_table(locator, place.read(name), names)
    except OSError as error:
        raise InputError(f"{locator}: {one_line(error)}") from None


def _no_audio(place: Place) -> InputError:
    return InputError(f"audio={place.label}: no audio files in it (wav, flac, ogg, opus, mp3, aiff, m4a, …)")


def _with_track_ids(tracks: Iterable[Track]) -> list[Track]:
    ordered = sorted(tracks, key=lambda track: track.source)
    stems = {track.source: str(PurePosixPath(track.source).with_suffix("").as_posix()) for track in ordered}
    counts = Counter(stems.values())
    taken = set(stems)
    return [
        dataclasses.replace(track, track_id=stem if counts[stem] == 1 and stem not in taken else track.source)
        for track in ordered
        for stem in [stems[track.source]]
    ]
