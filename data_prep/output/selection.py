"""What goes into a dataset: which tracks are rejected, which split each one goes to, and which slices stay.

Filters, once all tracks are known, look at the results alone, so a change of the filters decodes nothing again. Splits and
balance are drawn by hashes of the seed and the track, so adding tracks moves no other track to another split.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from data_prep.inputs.tracks import Track
from data_prep.tracks.measuring import from_text, similar_pairs
from data_prep.tracks.track_store import TrackResult, TrackStore
from riffusion_train.audio.loudness import CLIPPED_SHARE
from riffusion_train.audio.read import misnamed
from riffusion_train.config.prepare import Duplicates, PrepareConfig, Truncated
from riffusion_train.dataset.layout import SPLITS
from riffusion_train.runtime.errors import InputError


class PreparedTrack(NamedTuple):
    """A track that is not rejected, with its result."""

    track: Track
    result: TrackResult


@dataclasses.dataclass(frozen=True)
class _Copy:
    """A track that sounds like an earlier one."""

    earlier: int
    later: int
    detail: str


def apply_filters(tracks: Sequence[Track], results: Sequence[TrackResult], config: PrepareConfig) -> list[TrackResult]:
    """Return the results with warnings, and with a reason for each track that the config rejects.

    Args:
        tracks: All tracks.
        results: Their results, in the same order.
        config: The run's config.
    """
    filtered = [_filter_one(track, result, config) for track, result in zip(tracks, results, strict=True)]
    return _drop_copies(tracks, filtered, config)


def _filter_one(track: Track, result: TrackResult, config: PrepareConfig) -> TrackResult:
    wrong_name = misnamed(track.source, result.container) if result.container else None
    if wrong_name:  # added only here: the track store goes by content, and a copy may have another name
        result = dataclasses.replace(result, warnings=result.warnings | {"misnamed": wrong_name})
    if track.warnings:
        result = dataclasses.replace(result, warnings=result.warnings | track.warnings)
    if result.clipped_share >= CLIPPED_SHARE:
        detail = f"{result.clipped_share:.2%} of its samples are cut off at full scale"
        result = dataclasses.replace(result, warnings=result.warnings | {"clipped": detail})
        if result.reason is None and config.max_clipped is not None and result.clipped_share > config.max_clipped:
            return dataclasses.replace(result, reason="clipped", detail=detail)
    if track.rejection and result.reason is None:  # its captions depended on what the workers read or measured
        return dataclasses.replace(result, reason=track.rejection.reason, detail=track.rejection.detail)
    if result.reason is None and config.truncated is Truncated.reject and "truncated" in result.warnings:
        return dataclasses.replace(result, reason="truncated", detail=result.warnings["truncated"])
    return result


def _drop_copies(tracks: Sequence[Track], results: Sequence[TrackResult], config: PrepareConfig) -> list[TrackResult]:
    """Return the results, with the reason `duplicate` for each track that sounds like an earlier one that stays."""
    filtered = list(results)
    copies = _exact_copies(tracks, results) if config.duplicates is Duplicates.drop else []
    if config.near_duplicates is Duplicates.drop:
        copies = copies + _near_copies(tracks, results, config.near_duplicate_similarity)
    for copy in sorted(copies, key=lambda item: (item.later, item.earlier)):
        if filtered[copy.earlier].reason is None and filtered[copy.later].reason is None:
            filtered[copy.later] = dataclasses.replace(filtered[copy.later], reason="duplicate", detail=copy.detail)
    return filtered


def _exact_copies(tracks: Sequence[Track], results: Sequence[TrackResult]) -> list[_Copy]:
    first: dict[str, int] = {}
    copies = []
    for index, result in enumerate(results):
        if result.reason is None and result.pcm_hash:
            earlier = first.setdefault(result.pcm_hash, index)
            if earlier != index:
                copies.append(_Copy(earlier, index, f"the same samples as {tracks[earlier].source}"))
    return copies


def _near_copies(tracks: Sequence[Track], results: Sequence[TrackResult], least: float) -> list[_Copy]:
    return [
        _Copy(first, second, f"{share:.0%} of its fingerprint is that of {tracks[first].source}")
        for first, second, share in _similar_tracks(results, least)
    ]


def _similar_tracks(results: Sequence[TrackResult], least: float) -> list[tuple[int, int, float]]:
    """Return pairs of tracks with similar fingerprints: (first, second, share of equal bits)."""
    usable = [index for index, result in enumerate(results) if result.reason is None and result.acoustic]
    pairs = similar_pairs([from_text(results[index].acoustic or "") for index in usable], least)
    return sorted((usable[one], usable[other], share) for one, other, share in pairs)


def likeness_keys(results: Sequence[TrackResult], config: PrepareConfig) -> list[tuple[str, ...]]:
    """Return for each track the keys that it shares with its copies, which keep them in one split."""
    keys = [[f"~pcm {result.pcm_hash}"] if result.pcm_hash else [] for result in results]
    if config.near_duplicates is not Duplicates.off:
        for first, second, _ in _similar_tracks(results, config.near_duplicate_similarity):
            for index in (first, second):
                keys[index].append(f"~like {results[first].file_hash} {results[second].file_hash}")
    return [tuple(own) for own in keys]


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
