"""Captions and fields that come with one audio file: the sidecars `song.txt` and `song.json`, and its tags."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from data_prep.captions.tables import CAPTION_COLUMNS, Value, cell_texts
from data_prep.captions.text import clean_caption, clean_captions, parse_sidecar
from data_prep.storage import Storage
from riffusion_train.dataset.layout import COLUMNS
from riffusion_train.runtime.errors import InputError, one_line


class Sidecars(NamedTuple):
    """Content of the sidecars of one audio file."""

    captions: tuple[str, ...] = ()
    columns: dict[str, Value] = {}  # noqa: RUF012 - never changed
    file_name: str | None = None
    """Name of the first sidecar; None if there is none."""
    problem: str | None = None
    """Why it cannot be read; None if it can."""


def read_sidecars(storage: Storage, name: str) -> Sidecars:
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
                more, columns = parse_json_sidecar(beside, content)
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


def parse_json_sidecar(where: str, content: bytes) -> tuple[tuple[str, ...], dict[str, Value]]:
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
