"""Sources: the audio files that a config names, with the captions and columns of tables, sidecars and tags.

Sidecars are files beside one audio file: `song.txt`, one caption per line, and `song.json`, captions and fields.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from data_prep.captions.tables import (
    CAPTION_COLUMNS,
    TABLE_NAMES,
    ColumnNames,
    Table,
    TableRow,
    cell_texts,
    parse_table,
    read_table,
)
from data_prep.captions.text import Value, clean_caption, clean_captions, parse_sidecar
from data_prep.inputs.storage import (
    DATASETS_PREFIX,
    LocalFolder,
    Storage,
    dataset_sources,
    open_storage,
    remote_problem,
)
from data_prep.inputs.tracks import Rejection, Sources, Track, with_columns
from riffusion_train.config.prepare import CaptionSource, PrepareConfig
from riffusion_train.dataset.layout import COLUMNS
from riffusion_train.runtime.errors import InputError, one_line
from riffusion_train.runtime.files import is_url


def find_sources(config: PrepareConfig) -> Sources:
    """Find the audio files that a config names, with the captions in tables and sidecars.

    Raises:
        InputError: If there is no audio, or the table cannot be used.
    """
    if config.audio.startswith(DATASETS_PREFIX):
        return dataset_sources(config.audio, column_names(config))
    storage = open_storage(config.audio, Path(config.out))
    table = _find_table(config, storage)
    return _sidecar_sources(storage) if table is None else _table_sources(storage, table)


def _sidecar_sources(storage: Storage) -> Sources:
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
        beside = _read_sidecars(storage, name)
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


def _table_sources(storage: Storage, table: Table) -> Sources:
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


def _find_table(config: PrepareConfig, storage: Storage) -> Table | None:
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


class Sidecars(NamedTuple):
    """Content of the sidecars of one audio file."""

    captions: tuple[str, ...] = ()
    columns: dict[str, Value] = {}  # noqa: RUF012 - never changed
    file_name: str | None = None
    """Name of the first sidecar; None if there is none."""
    problem: str | None = None
    """Why it cannot be read; None if it can."""


def _read_sidecars(storage: Storage, name: str) -> Sidecars:
    """Read the sidecars of an audio file: `song.txt` or else `song.wav.txt`, and the same with `.json`.

    A JSON file holds a list of captions, or an object whose `caption`, `captions`, `text`, `prompt` or `description` is a
    caption or a list of captions; its other values become columns.

    Args:
        storage: Where the files are.
        name: Name of the audio file.
    """
    captions: list[str] = []
    columns: dict[str, Value] = {}
    file_name = None
    for suffix in (".txt", ".json"):
        beside = sidecar_of(storage, name, suffix)
        if beside is None:
            continue
        file_name = file_name or PurePosixPath(beside).name
        try:
            content = storage.read(beside)
            if suffix == ".txt":
                captions += parse_sidecar(beside, content)
            else:
                more, columns = _parse_json_sidecar(beside, content)
                captions += more
        except (InputError, OSError) as error:
            return Sidecars(file_name=file_name, problem=one_line(error))
    return Sidecars(clean_captions(captions), columns, file_name)


def sidecar_of(storage: Storage, name: str, suffix: str = ".txt") -> str | None:
    """Return the name of an audio file's sidecar; None if there is none."""
    for beside in (str(PurePosixPath(name).with_suffix(suffix)), name + suffix):
        if storage.locate(beside) is not None:
            return beside
    return None


def _parse_json_sidecar(where: str, content: bytes) -> tuple[tuple[str, ...], dict[str, Value]]:
    """Return the captions and the other values of a JSON sidecar.

    Raises:
        InputError: If it is not JSON, or neither a list nor an object.
    """
    try:
        data = json.loads(content)
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from None
    if isinstance(data, list):
        data = {CAPTION_COLUMNS[0]: data}
    if not isinstance(data, dict):
        raise InputError(f'{where}: neither a list of captions nor an object; write {{"caption": …}}')
    caption_key = next((key for key in CAPTION_COLUMNS if data.get(key)), None)
    captions = clean_captions(cell_texts(data[caption_key])) if caption_key else ()
    plain = {str(key): _plain(value) for key, value in data.items() if key not in CAPTION_COLUMNS}
    # A field whose name the dataset itself uses is kept under another name.
    columns: dict[str, Value] = {
        f"sidecar_{key}" if key in COLUMNS else key: value for key, value in plain.items() if value is not None
    }
    return captions, columns


def _plain(value: Any) -> Value:
    if isinstance(value, list):
        return clean_caption(", ".join(str(item) for item in value if not isinstance(item, dict | list))) or None
    if isinstance(value, str):
        return clean_caption(value) or None
    return value if isinstance(value, bool | int | float) else None


_NAMES: dict[str, tuple[str, ...]] = {
    "title": ("tit2", "\xa9nam", "title"),
    "artist": ("tpe1", "\xa9art", "artist", "author"),
    "album": ("talb", "\xa9alb", "album", "wm/albumtitle"),
    "genre": ("tcon", "\xa9gen", "genre", "wm/genre"),
    "bpm": ("tbpm", "tmpo", "bpm", "tempo", "wm/beatsperminute"),
    "key": ("tkey", "----:com.apple.itunes:initialkey", "key", "initialkey", "wm/initialkey"),
    "mood": ("tmoo", "mood", "----:com.apple.itunes:mood", "wm/mood"),
    "date": ("tdrc", "tyer", "\xa9day", "date", "year", "wm/year"),
    "comment": ("comm", "\xa9cmt", "desc", "comment", "description"),
}
"""Our names, and those of the file formats in lower case, in order of preference."""
TAG_COLUMNS = tuple(_NAMES)


def read_tags(path: Path) -> dict[str, str]:
    """Return the tags of an audio file by our names; empty if it has none, or they cannot be read.

    Tags only serve captions, so damaged tags are not an error: the audio may still be good.
    """
    import mutagen

    try:
        file = mutagen.File(path)
        raw = dict(file.tags.items()) if file is not None and file.tags is not None else {}
    except Exception:  # mutagen passes on whatever its parsers raise
        raw = {}
    by_key = _lower(raw) or _lower(_container_tags(path))
    tags = {name: next((by_key[key] for key in keys if by_key.get(key)), "") for name, keys in _NAMES.items()}
    return {name: text for name, text in tags.items() if text}


def _lower(raw: Mapping[str, Any]) -> dict[str, str]:
    plain: dict[str, str] = {}
    for name, value in raw.items():
        # ID3 keys carry a description and a language: COMM:title:eng
        key = name.lower() if name.startswith("----") else name.lower().split(":")[0]
        plain.setdefault(key, clean_caption(", ".join(_texts(value))))
    return plain


def _texts(value: Any) -> Iterable[str]:
    if hasattr(value, "text"):  # an ID3 frame
        value = getattr(value, "genres", None) or value.text
    for item in value if isinstance(value, list | tuple) else [value]:
        plain = getattr(item, "value", item)  # an ASF attribute
        yield plain.decode(errors="replace") if isinstance(plain, bytes) else str(plain)


def _container_tags(path: Path) -> dict[str, str]:
    """Return the tags that FFmpeg reads from a container that mutagen does not know, such as Matroska."""
    import av

    try:
        with av.open(str(path)) as container:
            streams = container.streams.audio
            return dict(container.metadata) | (dict(streams[0].metadata) if streams else {})
    except (av.FFmpegError, ValueError, OSError, UnicodeDecodeError):
        return {}
