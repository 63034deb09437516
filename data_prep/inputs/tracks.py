"""Tracks: audio files with their captions and columns, as they go through the preparation."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

from data_prep.captions.tables import as_type, column_type
from data_prep.captions.text import Value, one_line_caption


@dataclasses.dataclass(frozen=True)
class Rejection:
    """Why a track is left out."""

    reason: str
    """A few words under which rejected tracks are counted."""
    detail: str
    """One line that says what is wrong and how to fix it."""


@dataclasses.dataclass(frozen=True)
class Track:
    """One audio file with its captions."""

    locator: str
    """Path, URL, or row of a data set: what `fetch.open_input` opens."""
    source: str
    """Path in the folder, with forward slashes."""
    track_id: str
    """`source`, without its suffix if that is unique."""
    captions: tuple[str, ...] = ()
    """Captions of the whole track."""
    caption_source: str = ""
    """Where they are from, for the report: `sidecars`, `the table`, …; empty without captions."""
    slice_captions: tuple[tuple[str, ...], ...] = ()
    """Captions of each slice, in order; empty if each has those of the track."""
    columns: dict[str, Value] = dataclasses.field(default_factory=dict)
    artist: str | None = None
    split: str | None = None
    rejection: Rejection | None = None
    lacking: str = ""
    """Why it has no caption, for the message that rejects it."""
    size: int = -1
    """Size of the file in bytes; -1 if it is not known."""
    warnings: dict[str, str] = dataclasses.field(default_factory=dict)
    """Problems of its captions: a few words each, with details."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """Everything that goes into a dataset, in the order of `source`."""

    tracks: list[Track]
    extra_types: dict[str, str]
    """Types of the extra columns."""

    def digest(self) -> str:
        """Return a hash of all names, sizes, captions, columns and splits, which changes whenever one of them does."""
        total = hashlib.sha256()
        for track in self.tracks:
            fields = [track.source, track.size, track.captions, track.columns, track.artist, track.split]
            total.update(json.dumps(fields, sort_keys=True).encode() + b"\n")
        return total.hexdigest()


def with_columns(sources: Sources, added: Sequence[Mapping[str, Value]], names: Sequence[str] | None = None) -> Sources:
    """Return the sources with more columns; a track's existing values stay.

    Args:
        sources: All tracks.
        added: Additional values of each track.
        names: Columns to add even if no track has a value; None adds those that occur.
    """
    known = [
        dict(track.columns) | {name: value for name, value in more.items() if track.columns.get(name) is None}
        for track, more in zip(sources.tracks, added, strict=True)
    ]
    ordered = dict.fromkeys([*sources.extra_types, *(name for columns in known for name in columns), *(names or ())])
    types = {name: column_type([columns.get(name) for columns in known]) for name in ordered}
    tracks = [
        dataclasses.replace(
            track,
            columns={name: as_type(columns.get(name), kind) for name, kind in types.items()},
            artist=track.artist or one_line_caption(columns.get("artist")),
        )
        for track, columns in zip(sources.tracks, known, strict=True)
    ]
    return Sources(tracks, types)
