"""Sources: the audio files that a config names, with the captions and columns of tables and sidecars."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from data_prep.captions.sidecars import read_sidecars
from data_prep.captions.tables import TABLE_NAMES, ColumnNames, Table, TableRow, parse_table, read_table
from data_prep.inputs.fetch import PREFIX, dataset_sources
from data_prep.inputs.tracks import Rejection, Sources, Track, with_columns
from data_prep.storage import LocalFolder, Storage, open_storage, remote_problem
from riffusion_train.config.prepare import CaptionSource, PrepareConfig
from riffusion_train.runtime.errors import InputError, one_line
from riffusion_train.runtime.files import is_url


def find_sources(config: PrepareConfig) -> Sources:
    """Find the audio files that a config names, with the captions in tables and sidecars.

    Raises:
        InputError: If there is no audio, or the table cannot be used.
    """
    if config.audio.startswith(PREFIX):
        return dataset_sources(config.audio, column_names(config))
    storage = open_storage(config.audio, Path(config.out))
    table = find_table(config, storage)
    return sidecar_sources(storage) if table is None else table_sources(storage, table)


def sidecar_sources(storage: Storage) -> Sources:
    """Find audio files, captioned by `.txt` and `.json` files beside them."""
    names = storage.audio()
    if not names:
        raise _no_audio(storage)
    tracks = []
    for name in names:
        locator = storage.locate(name)
        if locator is None:
            missing = Rejection("file not found", f"{storage.label} names it, and it is not there")
            tracks.append(Track(name, name, name, rejection=missing))
            continue
        beside = read_sidecars(storage, name)
        rejection = Rejection("caption unreadable", beside.problem) if beside.problem else None
        lacking = f"{beside.file_name} is empty" if beside.file_name else f"there is no {Path(name).stem}.txt beside it"
        tracks.append(
            Track(
                *(locator, name, name, beside.captions, "sidecars" if beside.captions else ""),
                columns=beside.columns,
                rejection=rejection,
                lacking=f"{lacking}; write one",
                size=storage.size(locator),
            )
        )
    sources = Sources(_with_track_ids(tracks), {})
    return with_columns(sources, [{}] * len(tracks)) if any(track.columns for track in tracks) else sources


def table_sources(storage: Storage, table: Table) -> Sources:
    """Find the audio files that a table names, and those in the storage that it does not name."""
    # A table elsewhere may also name files relative to its own folder.
    beside = None if is_url(table.where) else LocalFolder(Path(table.where).parent, Path())
    table_name = PurePosixPath(table.where.replace("\\", "/")).name
    rows: dict[str, tuple[str, TableRow]] = {}
    tracks = []
    for file, row in table.rows.items():
        locator = file if is_url(file) else storage.locate(file) or (beside.locate(file) if beside else None)
        if locator is None:
            source = file.replace("\\", "/")
            missing = Rejection("file not found", f"{table_name} names it, {storage.label} does not hold it")
            tracks.append(Track(source, source, source, rejection=missing))
        elif locator in rows:
            raise InputError(f"{table.where}: '{rows[locator][0]}' and '{file}' are the same file; spell it one way")
        else:
            rows[locator] = (file, row)
    stored = {locator for name in storage.audio() if (locator := storage.locate(name)) is not None}
    if not stored and not rows:
        raise _no_audio(storage)
    for locator in sorted(stored | set(rows)):
        row = rows[locator][1] if locator in rows else TableRow((), {}, None, None)
        what = "the row has no caption" if locator in rows else "it has no row"
        source = storage.name_of(locator)
        columns = row.columns or dict.fromkeys(table.types)
        lacking = f"{what} in {table_name}; add it"
        known = Track(locator, source, source, row.captions, "the table" if row.captions else "")
        known = dataclasses.replace(known, columns=columns, artist=row.artist, split=row.split)
        tracks.append(dataclasses.replace(known, lacking=lacking, size=storage.size(locator)))
    return Sources(_with_track_ids(tracks), table.types)


def column_names(config: PrepareConfig) -> ColumnNames:
    """Return the columns of a table to which a config gives a meaning."""
    # If captions can come from elsewhere, the table need not have any.
    in_the_sound = config.captions in (CaptionSource.tags, CaptionSource.listen)
    elsewhere = config.caption_template or config.default_caption or config.captioner or in_the_sound
    return ColumnNames(
        *(config.file_column, config.caption_column, config.artist_column, config.split_column),
        needs_caption=not elsewhere,
    )


def find_table(config: PrepareConfig, storage: Storage) -> Table | None:
    """Read the table of captions that a config names or that lies in the storage; None if there is none.

    Raises:
        InputError: If it cannot be read, or the storage holds several.
    """
    names = column_names(config)
    if config.captions is CaptionSource.sidecar:
        _refuse_column_keys(config, "captions=sidecar reads no table")
        return None
    if config.table is not None:
        inside = config.table if is_url(config.table) else storage.locate(config.table)
        if Path(config.table).is_file():
            return read_table(Path(config.table), names)
        if inside is None:
            raise InputError(f"table={config.table}: no such file here or in {storage.label}")
        return _read_stored(storage, config.table, inside, names)
    stored = [(name, locator) for name in TABLE_NAMES if (locator := storage.locate(name)) is not None]
    if len(stored) > 1:
        raise InputError(f"{storage.label} holds {' and '.join(name for name, _ in stored)}; choose one with table=")
    if not stored and config.captions is CaptionSource.table:
        raise InputError(f"{storage.label} holds none of {', '.join(TABLE_NAMES)}; name the table with table=")
    if not stored:
        _refuse_column_keys(config, f"{storage.label} holds no table of captions; name one with table=")
        return None
    return _read_stored(storage, *stored[0], names)


def _refuse_column_keys(config: PrepareConfig, problem: str) -> None:
    """Refuse keys that name a column of the table where there is no table."""
    for key in ("file_column", "caption_column", "artist_column", "split_column"):
        if getattr(config, key) is not None:
            raise InputError(f"{key}={getattr(config, key)}: {problem}, or leave out {key}=")


def _read_stored(storage: Storage, name: str, locator: str, names: ColumnNames) -> Table:
    if is_url(name):
        import fsspec

        try:
            with fsspec.open(name, "rb") as file:
                return parse_table(name, file.read(), names)
        except (OSError, ImportError, ValueError) as error:
            raise InputError(f"table={name}: {remote_problem(error)}") from None
    if not is_url(locator):
        return read_table(Path(locator), names)
    try:
        return parse_table(locator, storage.read(name), names)
    except OSError as error:
        raise InputError(f"{locator}: {one_line(error)}") from None


def _no_audio(storage: Storage) -> InputError:
    return InputError(f"audio={storage.label}: no audio files in it (wav, flac, ogg, opus, mp3, aiff, m4a, …)")


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
