"""What goes in: the audio files of a folder, each with its captions and what a table says about it."""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.captions import clean_captions, read_sidecar, sidecar_of
from data_prep.tables import TABLE_NAMES, Table, TableRow, Value, read_table
from riffusion_train.config.errors import InputError
from riffusion_train.config.prepare import CaptionSource, PrepareConfig

AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".bwf", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff"),
    *(".aifc", ".au", ".snd", ".caf", ".m4a", ".m4b", ".mp4", ".aac", ".wma", ".wv", ".tta", ".ape", ".ac3", ".mka"),
    *(".webm", ".amr"),
)
"""Which files of a folder are tried. What a file holds is decided by its content, not by this."""


@dataclasses.dataclass(frozen=True)
class Rejection:
    """Why a track is left out."""

    reason: str
    """A few words under which rejected tracks are counted."""
    detail: str
    """One line that says what was found and how to mend it."""


@dataclasses.dataclass(frozen=True)
class Track:
    """One audio file with its captions."""

    path: Path
    source: str
    """Path in the folder, with forward slashes."""
    track_id: str
    """`source` without its suffix where that is unique."""
    captions: tuple[str, ...] = ()
    columns: dict[str, Value] = dataclasses.field(default_factory=dict)
    artist: str | None = None
    split: str | None = None
    rejection: Rejection | None = None


@dataclasses.dataclass(frozen=True)
class Sources:
    """Everything that goes into a dataset, in the order of `source`."""

    tracks: list[Track]
    extra_types: dict[str, str]
    """Types of the extra columns of the table."""

    def digest(self) -> str:
        """Return a hash over the files' names and sizes, captions, columns and splits: it tells whether anything changed."""
        total = hashlib.sha256()
        for track in self.tracks:
            size = track.path.stat().st_size if track.path.is_file() else -1
            facts = [track.source, size, track.captions, track.columns, track.artist, track.split]
            total.update(json.dumps(facts, sort_keys=True).encode() + b"\n")
        return total.hexdigest()


def make_sources(config: PrepareConfig) -> Sources:
    """Find the audio files that a config names, with their captions.

    Raises:
        InputError: If the folder is missing or holds no audio, or the table cannot be used.
    """
    table = _find_table(config)
    if table is None:
        return sidecar_sources(Path(config.audio), Path(config.out), config.default_caption)
    read = read_table(table, config.file_column, config.caption_column, config.artist_column, config.split_column)
    return table_sources(Path(config.audio), Path(config.out), read, config.default_caption)


def sidecar_sources(folder: Path, out: Path, default_caption: str | None = None) -> Sources:
    """Find the audio files of a folder, captioned by `.txt` files beside them."""
    tracks = []
    for path in find_audio(folder, out):
        rejection = None
        captions: tuple[str, ...] = ()
        sidecar = sidecar_of(path)
        try:
            captions = read_sidecar(sidecar) if sidecar else ()
        except InputError as error:
            rejection = Rejection("caption unreadable", str(error))
        captions = captions or clean_captions([default_caption or ""])
        if not captions and rejection is None:
            where = f"{sidecar.name} is empty" if sidecar else f"there is no {path.stem}.txt beside it"
            rejection = Rejection("no caption", f"{where}; write one, or give default_caption=")
        source = path.relative_to(folder).as_posix()
        tracks.append(Track(path, source, source, captions, rejection=rejection))
    return Sources(_with_track_ids(tracks), {})


def table_sources(folder: Path, out: Path, table: Table, default_caption: str | None = None) -> Sources:
    """Find the audio files that a table names, and those of the folder that it does not name."""
    rows: dict[Path, tuple[str, TableRow]] = {}
    tracks = []
    for file, row in table.rows.items():
        path = _resolve(file, folder, table.path.parent)
        if path is None:
            source = file.replace("\\", "/")
            missing = Rejection("file not found", f"{table.path.name} names it, {folder} does not hold it")
            tracks.append(Track(folder / source, source, source, rejection=missing))
        elif path in rows:
            raise InputError(f"{table.path}: '{rows[path][0]}' and '{file}' are the same file; write it one way")
        else:
            rows[path] = (file, row)
    found = find_audio(folder, out, empty_is_error=not rows)
    absolute = {Path(os.path.abspath(path)) for path in found}  # noqa: PTH100 - resolve() would follow links
    for path in sorted(absolute | set(rows)):
        row = rows[path][1] if path in rows else TableRow((), {}, None, None)
        captions = row.captions or clean_captions([default_caption or ""])
        what = "the row has no caption" if path in rows else "it has no row"
        rejection = (
            None
            if captions
            else Rejection("no caption", f"{what} in {table.path.name}; add it, or give default_caption=")
        )
        root = Path(os.path.abspath(folder))  # noqa: PTH100
        source = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
        columns = row.columns or dict.fromkeys(table.types)
        tracks.append(Track(path, source, source, captions, columns, row.artist, row.split, rejection))
    return Sources(_with_track_ids(tracks), table.types)


def find_audio(folder: Path, out: Path, empty_is_error: bool = True) -> list[Path]:
    """Return the audio files in a folder and its subfolders, sorted; hidden files and the folder `out` are passed over.

    Raises:
        InputError: If there is no such folder, or no audio file in it.
    """
    if not folder.is_dir():
        raise InputError(f"audio={folder}: no such folder")
    found = sorted(_walk(folder, out.resolve()), key=lambda path: path.as_posix())
    if not found and empty_is_error:
        raise InputError(f"audio={folder}: no audio files in it (wav, flac, ogg, opus, mp3, aiff, m4a, …)")
    return found


def _walk(folder: Path, out: Path) -> Iterator[Path]:
    seen: set[Path] = set()
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        real = Path(directory).resolve()
        if real in seen or real == out:  # a link may lead back up, or into the dataset that is being made
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            path = Path(directory, name)
            if path.suffix.lower() in AUDIO_SUFFIXES and not name.startswith(".") and path.is_file():
                yield path


def _find_table(config: PrepareConfig) -> Path | None:
    if config.captions is CaptionSource.sidecar:
        return None
    folder = Path(config.audio)
    if not folder.is_dir():
        raise InputError(f"audio={folder}: no such folder")
    if config.table is not None:
        given = Path(config.table)
        inside = folder / given
        if not given.is_file() and not inside.is_file():
            raise InputError(f"table={given}: no such file here or in {folder}")
        return given if given.is_file() else inside
    there = [folder / name for name in TABLE_NAMES if (folder / name).is_file()]
    if len(there) > 1:
        raise InputError(f"{folder} holds {' and '.join(path.name for path in there)}; choose one with table=")
    if not there and config.captions is CaptionSource.table:
        raise InputError(f"{folder} holds none of {', '.join(TABLE_NAMES)}; name the table with table=")
    return there[0] if there else None


def _resolve(file: str, *folders: Path) -> Path | None:
    for spelling in dict.fromkeys((file, file.replace("\\", "/"))):
        for folder in folders:
            path = Path(os.path.abspath(folder / spelling))  # noqa: PTH100 - resolve() would follow links
            if path.is_file():
                return path
    return None


def _with_track_ids(tracks: Iterable[Track]) -> list[Track]:
    ordered = sorted(tracks, key=lambda track: track.source)
    stems = {track.source: str(Path(track.source).with_suffix("").as_posix()) for track in ordered}
    counts = Counter(stems.values())
    taken = set(stems)
    return [
        dataclasses.replace(track, track_id=stem if counts[stem] == 1 and stem not in taken else track.source)
        for track in ordered
        for stem in [stems[track.source]]
    ]
