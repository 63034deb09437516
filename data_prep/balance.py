"""Balance by a column: no value of it gets more slices for training than the rarest, times a factor."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.kept import TrackFacts, kept_path, read_slices
from data_prep.tracks import Track
from riffusion_train.runtime.errors import InputError

Kept = Sequence[tuple[Track, TrackFacts]]


def choose_slices(
    kept: Kept, split_of: Mapping[str, str], column: str, ratio: float, seed: int
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
            drawn = [(_draw(seed, track.track_id, index), track.track_id, index) for index in range(fact.slices)]
            slices.setdefault(value, []).extend(drawn)
    most = math.ceil(ratio * min(map(len, slices.values()), default=0))
    stay = [item for of_value in slices.values() for item in sorted(of_value)[:most]]
    chosen: dict[str, set[int]] = {track_id: set() for of_value in slices.values() for _, track_id, _ in of_value}
    for _, track_id, index in stay:
        chosen[track_id].add(index)
    return {track_id: frozenset(indices) for track_id, indices in chosen.items()}


def with_chosen(
    kept: Kept, chosen: Mapping[str, frozenset[int]], folder: Path, key: str
) -> list[tuple[Track, TrackFacts]]:
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


def _draw(seed: int, track_id: str, index: int) -> bytes:
    return hashlib.sha256(f"balance\n{seed}\n{track_id}\n{index}".encode()).digest()
