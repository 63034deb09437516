"""What lies beside an audio file: `song.txt` with one caption a line, `song.json` with captions and facts."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from data_prep.captions.text import clean_caption, clean_captions, parse_sidecar
from data_prep.inputs.storage import Place, one_line
from data_prep.inputs.tables import CAPTION_COLUMNS, Value, cell_texts
from riffusion_train.dataset.layout import COLUMNS
from riffusion_train.runtime.errors import InputError


class Sidecars(NamedTuple):
    """What the files beside one audio file say."""

    captions: tuple[str, ...] = ()
    columns: dict[str, Value] = {}  # noqa: RUF012 - never changed
    found: str | None = None
    """Name of the sidecar that was found."""
    problem: str | None = None
    """Why it cannot be read."""


def read_sidecars(place: Place, name: str) -> Sidecars:
    """Read the sidecars of an audio file: `song.txt` or else `song.wav.txt`, and the same with `.json`.

    A JSON file holds a list of captions, or an object whose `caption`, `captions`, `text`, `prompt` or `description` is one or
    a list of them; its other values become columns.
    """
    captions: list[str] = []
    columns: dict[str, Value] = {}
    found = None
    for suffix in (".txt", ".json"):
        beside = sidecar_of(place, name, suffix)
        if beside is None:
            continue
        found = found or PurePosixPath(beside).name
        try:
            content = place.read(beside)
            if suffix == ".txt":
                captions += parse_sidecar(beside, content)
            else:
                more, columns = parse_json_sidecar(beside, content)
                captions += more
        except (InputError, OSError) as error:
            return Sidecars(found=found, problem=one_line(error))
    return Sidecars(clean_captions(captions), columns, found)


def sidecar_of(place: Place, name: str, suffix: str = ".txt") -> str | None:
    """Return the name of an audio file's sidecar; None where there is none."""
    for beside in (str(PurePosixPath(name).with_suffix(suffix)), name + suffix):
        if place.locate(beside) is not None:
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
    # A name that the dataset itself uses is kept under another.
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
"""Our names, and what the formats call them, in lower case."""
TAG_COLUMNS = tuple(_NAMES)


def read_tags(path: Path) -> dict[str, str]:
    """Return the tags of an audio file by our names; empty where it has none or cannot be read.

    Tags are no more than a source of captions: a file with damaged ones may hold sound all the same.
    """
    import mutagen

    try:
        found = mutagen.File(path)
        raw = dict(found.tags.items()) if found is not None and found.tags is not None else {}
    except Exception:  # mutagen raises what its parsers meet
        raw = {}
    plain = _lower(raw) or _lower(_container_tags(path))
    tags = {name: next((plain[key] for key in keys if plain.get(key)), "") for name, keys in _NAMES.items()}
    return {name: text for name, text in tags.items() if text}


def _lower(raw: Mapping[str, Any]) -> dict[str, str]:
    plain: dict[str, str] = {}
    for name, value in raw.items():
        # ID3 keys bear a description: COMM:title:eng
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
    """Return what FFmpeg reads of a container that mutagen does not know, such as Matroska."""
    import av

    try:
        with av.open(str(path)) as container:
            streams = container.streams.audio
            return dict(container.metadata) | (dict(streams[0].metadata) if streams else {})
    except (av.FFmpegError, ValueError, OSError, UnicodeDecodeError):
        return {}
