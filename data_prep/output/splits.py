"""Splits and balance: which track goes to which split, and which slices stay, all drawn by hashes.

A draw depends on the seed and the track alone, so adding tracks moves no other track to another split.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

from data_prep.output.filters import PreparedTrack
from data_prep.tracks.track_store import TrackStore
from riffusion_train.dataset.layout import SPLITS
from riffusion_train.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class SplitMember:
    """What the split of one track depends on."""

    track_id: str
    content: str
    """Hash of the file: copies of one file stay together."""
    artist: str | None = None
    split: str | None = None
    """The split that the source table gives; it is followed."""
    alike: tuple[str, ...] = ()
    """Keys that it shares with its copies."""


def assign_splits(
    members: Sequence[SplitMember], seed: int, validation_ratio: float, test_ratio: float = 0.0
) -> dict[str, str]:
    """Return the split of every track by its id.

    Tracks of one artist, copies of one file, and tracks that sound alike form a group. All of a group is in one split, unless
    the source table itself says otherwise. A share that rounds to nothing still gets one group, as long as another is left
    to train on.

    Args:
        members: The tracks.
        seed: Changes which groups are drawn.
        validation_ratio: Expected share of the groups in `validation`.
        test_ratio: Expected share of the groups in `test`.
    """
    groups = _groups(members)
    drawn = {name: _draw(seed, name) for name in groups}
    given = {
        name: next((member.split for member in sorted(group, key=_by_id) if member.split), None)
        for name, group in groups.items()
    }
    split_of = {name: given[name] or _split_at(drawn[name], validation_ratio, test_ratio) for name in groups}
    free = sorted((name for name in groups if given[name] is None), key=lambda name: (drawn[name], name))
    _fill_empty_splits(split_of, free, {"validation": validation_ratio, "test": test_ratio})
    return {member.track_id: member.split or split_of[name] for name, group in groups.items() for member in group}


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
                # Train has the upper end of the draws, so it takes the highest one; the others take the lowest.
                split_of[counts[donor][-1 if split == "train" else 0]] = split
                break
    if split_of and "train" not in split_of.values() and free:
        split_of[free[-1]] = "train"


def _groups(members: Sequence[SplitMember]) -> dict[str, list[SplitMember]]:
    """Return the groups of tracks that share a key (union-find), each named by its least key."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]  # path halving
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
    """Return a number in [0, 1) that depends on its arguments alone."""
    digest = hashlib.sha256(f"{seed}\n{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def used_splits(assigned: Iterable[str]) -> list[str]:
    """Return the splits that occur, in their usual order."""
    used = set(assigned)
    return [split for split in SPLITS if split in used]


def choose_slices(
    included: Sequence[PreparedTrack], split_of: Mapping[str, str], column: str, ratio: float, seed: int
) -> dict[str, frozenset[int]]:
    """Balance the train split: return which slices stay, by track id.

    Slices of tracks without a value in the column all stay; these tracks are not in the result.

    Args:
        included: The tracks of the dataset.
        split_of: Split of each track.
        column: The column whose values are balanced.
        ratio: Most slices of any value, as a multiple of those of the rarest value.
        seed: Decides which slices stay.

    Raises:
        InputError: If the column does not exist.
    """
    if not any(column in track.columns for track, _ in included):
        have = ", ".join(sorted({name for track, _ in included for name in track.columns})) or "none"
        raise InputError(f"balance_column={column}: no such column; there are: {have}")
    slices: dict[object, list[tuple[bytes, str, int]]] = {}
    for track, result in included:
        value = track.columns.get(column)
        if value is not None and split_of[track.track_id] == "train":
            drawn = [
                (_balance_draw(seed, track.track_id, number), track.track_id, number) for number in range(result.slices)
            ]
            slices.setdefault(value, []).extend(drawn)
    most = math.ceil(ratio * min(map(len, slices.values()), default=0))
    stay = [item for of_value in slices.values() for item in sorted(of_value)[:most]]
    chosen: dict[str, set[int]] = {track_id: set() for of_value in slices.values() for _, track_id, _ in of_value}
    for _, track_id, number in stay:
        chosen[track_id].add(number)
    return {track_id: frozenset(numbers) for track_id, numbers in chosen.items()}


def with_chosen(
    included: Sequence[PreparedTrack], chosen: Mapping[str, frozenset[int]], store: TrackStore
) -> list[PreparedTrack]:
    """Return the tracks with the counts of the slices that stay, without tracks of which none stays."""
    balanced = []
    for track, result in included:
        numbers = chosen.get(track.track_id)
        if numbers is not None and len(numbers) < result.slices:
            durations_s = [item.duration_s for item in store.read_slices(result.file_hash)]
            slices_s = float(sum(durations_s[number] for number in numbers))
            result = dataclasses.replace(result, slices=len(numbers), slices_s=slices_s)
        if result.slices:
            balanced.append(PreparedTrack(track, result))
    return balanced


def _balance_draw(seed: int, track_id: str, index: int) -> bytes:
    return hashlib.sha256(f"balance\n{seed}\n{track_id}\n{index}".encode()).digest()
