"""What an audio file says about itself: ID3, Vorbis comments, MP4 atoms, ASF and Matroska tags, under one set of names."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_prep.captions import clean_caption

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
