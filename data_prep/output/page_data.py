"""What the dataset page says: tracks with captions, columns and warnings, copies, rejects, and the slices it shows."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.captions.listening import Heard, heard_tags
from data_prep.captions.text import Value
from data_prep.tracks.measuring import from_text, similar_pairs
from data_prep.writers import read_columns
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.dataset.layout import (
    CAPTION,
    COLUMNS,
    DURATION_S,
    MANIFEST_FILE,
    MAX_VALUE,
    SOURCE,
    SPLITS,
    START_S,
    TRACK_ID,
    DatasetFolder,
)
from riffusion_train.runtime.errors import InputError

MAX_TRACKS = 20_000
"""Most tracks on a page; a browser opens some ten megabytes of text."""
_OWN_COLUMNS = {*COLUMNS, "text", "file_name"}
"""Columns of every dataset, and those that writer=folder adds."""


class ShownSlice(NamedTuple):
    """A slice that the page can show."""

    split: str
    number: int
    """Its number in the split."""
    track: int
    """Index of its track in the page's data."""
    start_s: float
    duration_s: float
    max_value: float | None
    captions: tuple[str, ...] = ()
    """Its own captions; empty if it has those of its track."""


def describe_dataset(folder: DatasetFolder) -> tuple[dict[str, Any], list[list[ShownSlice]]]:
    """Return the page's data without its slices, and the slices of each track.

    Args:
        folder: The finished dataset, of any version.

    Raises:
        InputError: If it has no manifest.
    """
    stats, parameters = folder.stats, folder.stats.get("parameters", {})
    lines = _read_manifest(folder)
    tracks, slices = _read_tracks(folder, lines)
    num_tracks = len(tracks)
    if num_tracks > MAX_TRACKS:  # evenly spread, as the slices are
        kept = [index * num_tracks // MAX_TRACKS for index in range(MAX_TRACKS)]
        tracks = [tracks[index] for index in kept]
        slices = [[item._replace(track=new) for item in slices[old]] for new, old in enumerate(kept)]
    _add_cells(tracks, lines, str(parameters.get("path_template") or ""))
    for track in tracks:
        line = lines.get(track["source"], {})
        track["warnings"] = warnings_of(line)
        if line.get("heard"):
            track["columns"] = _heard_columns(line["heard"]) | track["columns"]
    rejects = [
        {"source": line["source"], "reason": line.get("reason") or "rejected", "detail": line.get("detail") or ""}
        for line in lines.values()
        if line.get("status") == "rejected"
    ]
    data = {
        "fingerprint": folder.fingerprint,
        "totals": stats["totals"],
        "splits": stats["splits"],
        "clip_s": folder.spectrogram.clip_s,
        "codec": folder.spectrogram.name,
        "silent_slices": stats.get("silent_slices", 0),
        "captions_cut_off": stats.get("captions_cut_off", 0),
        "all_tracks": num_tracks,
        "trigger": parameters.get("trigger") or "",
        "headers": {
            "file": parameters.get("file_column") or "file",
            "caption": parameters.get("caption_column") or "caption",
            "split": parameters.get("split_column") or "split",
        },
        "tracks": tracks,
        "copies": _copies([lines.get(track["source"], {}) for track in tracks], _least_similarity(parameters)),
        "rejects": rejects[:MAX_TRACKS],
    }
    return data, slices


def _least_similarity(parameters: Mapping[str, Any]) -> float:
    return float(parameters.get("near_duplicate_similarity", PrepareConfig.near_duplicate_similarity))


def _read_manifest(folder: DatasetFolder) -> dict[str, dict[str, Any]]:
    if not (folder.path / MANIFEST_FILE).is_file():
        raise InputError(
            f"{folder.path}: has no {MANIFEST_FILE}, the record of each file; copy it from where the dataset was made"
        )
    with (folder.path / MANIFEST_FILE).open(encoding="utf-8") as lines:
        return {line["source"]: line for line in map(json.loads, lines)}


def _read_tracks(
    folder: DatasetFolder, lines: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[list[ShownSlice]]]:
    """Return the tracks in the dataset, in the order of its rows, and the slices of each."""
    tracks: list[dict[str, Any]] = []
    slices: list[list[ShownSlice]] = []
    index_of: dict[str, int] = {}
    for split in SPLITS:
        for number, row in enumerate(read_columns(folder, split)):
            index = index_of.setdefault(row[TRACK_ID], len(tracks))
            if index == len(tracks):
                line = lines.get(row[SOURCE], {})
                tracks.append(
                    {
                        "source": row[SOURCE],
                        "split": split,
                        # Rows of a track that was captioned by listening hold the captions of their slice.
                        "captions": line.get("listened") or list(row[CAPTION]),
                        "slices": 0,
                        "duration_s": line.get("duration_s"),
                        "lufs": row.get("loudness_lufs"),
                        "gain_db": line.get("gain_db"),
                        "columns": {name: value for name, value in row.items() if name not in _OWN_COLUMNS},
                    }
                )
                slices.append([])
            tracks[index]["slices"] += 1
            own = [] if list(row[CAPTION]) == tracks[index]["captions"] else list(row[CAPTION])
            shown = ShownSlice(split, number, index, row[START_S], row[DURATION_S], row.get(MAX_VALUE), tuple(own))
            slices[index].append(shown)
    return tracks, slices


def _add_cells(tracks: Sequence[dict[str, Any]], lines: Mapping[str, Mapping[str, Any]], path_template: str) -> None:
    """Give each track the cells that its row of captions.csv needs besides the caption.

    These are the columns of the table that the dataset was made with. Columns that come from the sound, the tags or the path
    are left out, for the next run finds them again.
    """
    found = [
        {**line.get("tags", {}), **line.get("measured", {})} for line in (lines.get(t["source"], {}) for t in tracks)
    ]
    derived = set(re.findall(r"{(\w+)", path_template))
    derived |= {
        name
        for name in {name for track in tracks for name in track["columns"]}
        if any(name in values for values in found)
        and all(
            track["columns"].get(name) in (None, values.get(name)) for track, values in zip(tracks, found, strict=True)
        )
    }
    for track in tracks:
        track["cells"] = {name: _cell(value) for name, value in track["columns"].items() if name not in derived}


def _heard_columns(data: Mapping[str, Any]) -> dict[str, Value]:
    """Return what was heard and measured in a track, as columns that the page shows and the dataset does not have."""
    heard = Heard.from_data(data)
    measured = {"bpm": heard.bpm, "key": heard.key, "loudness": heard.loudness, "brightness": heard.brightness}
    tags = ", ".join(heard_tags(heard))
    return {name: value for name, value in ({"heard": tags or None} | measured).items() if value is not None}


def _cell(value: Value) -> str:
    """Return a value as a cell of a table that is read back with the same type."""
    return "" if value is None else str(value)


def warnings_of(line: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the warnings of a line of the manifest, by kind and text.

    They are an object of texts by kind; a list of texts, or of objects with `kind` and `text`, is read as well.
    """
    warnings = line.get("warnings") or {}
    if isinstance(warnings, Mapping):
        pairs = [(kind, text) for kind, texts in warnings.items() for text in _as_list(texts)]
    else:
        pairs = [
            (item.get("kind", "warning"), item.get("text", "")) if isinstance(item, Mapping) else ("warning", item)
            for item in warnings
        ]
    return [{"kind": str(kind), "text": str(text)} for kind, text in pairs]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _copies(lines: Sequence[Mapping[str, Any]], least: float) -> list[list[int]]:
    """Return groups of tracks with the same samples or similar fingerprints, by index."""
    leader = list(range(len(lines)))

    def first_of(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    seen: dict[str, int] = {}
    pairs = [
        (seen.setdefault(line["pcm_hash"], index), index) for index, line in enumerate(lines) if line.get("pcm_hash")
    ]
    usable = [index for index, line in enumerate(lines) if line.get("acoustic")]
    similar = similar_pairs([from_text(lines[index]["acoustic"]) for index in usable], least) if usable else []
    for one, other in (*pairs, *((usable[one], usable[other]) for one, other, _ in similar)):
        one, other = sorted((first_of(one), first_of(other)))
        leader[other] = one
    groups: dict[int, list[int]] = {}
    for index in range(len(lines)):
        groups.setdefault(first_of(index), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def choose_slices(slices: Sequence[Sequence[ShownSlice]], most: int) -> list[ShownSlice]:
    """Return at most `most` slices, evenly spread over the tracks and in each of them; the same ones every time."""
    chosen = [
        items[(2 * part + 1) * len(items) // (2 * quota)]
        for items, quota in zip(slices, quotas([len(items) for items in slices], most), strict=True)
        for part in range(quota)
    ]
    return sorted(chosen, key=lambda item: (item.track, item.number))


def quotas(counts: Sequence[int], most: int) -> list[int]:
    """Share `most` out over tracks with so many slices each, as evenly as their numbers allow.

    Where there are more tracks than shares, evenly spread tracks get one.
    """
    if sum(counts) <= most:
        return list(counts)
    level = 0
    while sum(min(count, level + 1) for count in counts) <= most:
        level += 1
    shares = [min(count, level) for count in counts]
    rest, open_tracks = most - sum(shares), [index for index, count in enumerate(counts) if count > level]
    for part in range(rest):
        shares[open_tracks[part * len(open_tracks) // rest]] += 1
    return shares


def thinned(items: Sequence[Any], count: int) -> Iterator[Any]:
    """Yield `count` of the items, evenly spread."""
    for part in range(count):
        yield items[part * len(items) // count]
