"""Which track goes to which split: by a hash, so that adding tracks moves no other, and never a group in two splits."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data_prep.inputs.tracks import Track
from data_prep.output.track_store import TrackResult, kept_path, read_slices
from riffusion_train.dataset.layout import SPLITS
from riffusion_train.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class SplitMember:
    """What decides about the split of one track."""

    track_id: str
    content: str
    """Hash of the file: copies of one file stay together."""
    artist: str | None = None
    split: str | None = None
    """What the source table says; it is followed."""
    alike: tuple[str, ...] = ()
    """Keys that it shares with tracks that sound the same."""


def assign_splits(
    members: Sequence[SplitMember], seed: int, validation_ratio: float, test_ratio: float = 0.0
) -> dict[str, str]:
    """Return the split of every track by its id.

    Tracks of one artist, copies of one file, and tracks that sound alike form a group; a group is in one split, except where
    the source table itself says otherwise. A share that rounds to nothing still gets one group, as long as one is left to
    train on.

    Args:
        members: The tracks.
        seed: Changes which groups are drawn.
        validation_ratio: Expected share of the groups in `validation`.
        test_ratio: Expected share of the groups in `test`.
    """
    groups = _groups(members)
    drawn = {name: _draw(seed, name) for name in groups}
    said = {name: next((m.split for m in sorted(group, key=_by_id) if m.split), None) for name, group in groups.items()}
    split_of = {name: said[name] or _split_at(drawn[name], validation_ratio, test_ratio) for name in groups}
    free = sorted((name for name in groups if said[name] is None), key=lambda name: (drawn[name], name))
    _fill_empty_splits(split_of, free, {"validation": validation_ratio, "test": test_ratio})
    return {m.track_id: m.split or split_of[name] for name, group in groups.items() for m in group}


def _split_at(draw: float, validation_ratio: float, test_ratio: float) -> str:
    if draw < validation_ratio:
        return "validation"
    return "test" if draw < validation_ratio + test_ratio else "train"


def _fill_empty_splits(split_of: dict[str, str], free: Sequence[str], ratios: dict[str, float]) -> None:
    """Give every split that should not be empty one group, train first, from the split with the most free groups."""
    for split in SPLITS:
        if split in split_of.values() or ratios.get(split, 1.0) == 0:
            continue
        counts = {other: [name for name in free if split_of[name] == other] for other in SPLITS}
        for donor in sorted(SPLITS, key=lambda other: -len(counts[other])):
            others = sum(value == donor for value in split_of.values())
            if counts[donor] and others > 1:
                # Train lies at the upper end of the draws, so it takes the highest; the others take the lowest.
                split_of[counts[donor][-1 if split == "train" else 0]] = split
                break
    if split_of and "train" not in split_of.values() and free:
        split_of[free[-1]] = "train"


def _groups(members: Sequence[SplitMember]) -> dict[str, list[SplitMember]]:
    """Join tracks that share an artist or their content (union-find); each group is named by its least key."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for member in members:
        low, *rest = sorted({root(key) for key in _keys(member)})
        for key in rest:
            parent[key] = low
    groups: dict[str, list[SplitMember]] = {}
    for member in members:
        groups.setdefault(root(_keys(member)[0]), []).append(member)
    return groups


def _keys(member: SplitMember) -> list[str]:
    artist = [f"artist {member.artist.casefold()}"] if member.artist else []
    return [*artist, f"track {member.track_id}", f"~content {member.content}", *member.alike]


def _by_id(member: SplitMember) -> str:
    return member.track_id


def _draw(seed: int, name: str) -> float:
    digest = hashlib.sha256(f"{seed}\n{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def used_splits(assigned: Iterable[str]) -> list[str]:
    """Return the splits that occur, in their usual order."""
    there = set(assigned)
    return [split for split in SPLITS if split in there]


KeptSlices = Sequence[tuple[Track, TrackResult]]


def choose_slices(
    kept: KeptSlices, split_of: Mapping[str, str], column: str, ratio: float, seed: int
) -> dict[str, frozenset[int]]:
    """Return which slices of the tracks in `train` stay, by track id; those of tracks without a value all stay.

    Args:
        kept: The tracks with what is known of them.
        split_of: Split of each track.
        column: The column whose values are balanced.
        ratio: How many times the slices of the rarest value any other may have.
        seed: Decides which slices stay.

    Raises:
        InputError: If there is no such column.
    """
    if not any(column in track.columns for track, _ in kept):
        have = ", ".join(sorted({name for track, _ in kept for name in track.columns})) or "none"
        raise InputError(f"balance_column={column}: no such column; there are: {have}")
    slices: dict[object, list[tuple[bytes, str, int]]] = {}
    for track, fact in kept:
        value = track.columns.get(column)
        if value is not None and split_of[track.track_id] == "train":
            drawn = [
                (_balance_draw(seed, track.track_id, index), track.track_id, index) for index in range(fact.slices)
            ]
            slices.setdefault(value, []).extend(drawn)
    most = math.ceil(ratio * min(map(len, slices.values()), default=0))
    stay = [item for of_value in slices.values() for item in sorted(of_value)[:most]]
    chosen: dict[str, set[int]] = {track_id: set() for of_value in slices.values() for _, track_id, _ in of_value}
    for _, track_id, index in stay:
        chosen[track_id].add(index)
    return {track_id: frozenset(indices) for track_id, indices in chosen.items()}


def with_chosen(
    kept: KeptSlices, chosen: Mapping[str, frozenset[int]], folder: Path, key: str
) -> list[tuple[Track, TrackResult]]:
    """Return the tracks with the counts of the slices that stay; those of which none stays are left out."""
    result = []
    for track, fact in kept:
        stay = chosen.get(track.track_id)
        if stay is not None and len(stay) < fact.slices:
            lengths_s = [item.duration_s for item in read_slices(kept_path(folder, fact.file_hash, key))]
            slices_s = float(sum(lengths_s[index] for index in stay))
            fact = dataclasses.replace(fact, slices=len(stay), slices_s=slices_s)
        if fact.slices:
            result.append((track, fact))
    return result


def _balance_draw(seed: int, track_id: str, index: int) -> bytes:
    return hashlib.sha256(f"balance\n{seed}\n{track_id}\n{index}".encode()).digest()
