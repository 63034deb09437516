"""The statistics of a dataset: counts, hours, captions, loudness, tempo, and what was left out."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_prep.kept import TrackFacts
from data_prep.splits import used_splits
from data_prep.tokens import MAX_TOKENS, count_tokens
from data_prep.tracks import Track
from data_prep.writers.shard import Shard, fingerprint

TEMPO = "tempo_bpm"
_TEMPO_COLUMNS = ("bpm", "tempo")
LOUDNESS_BINS = (-40.0, 0.0, 2.0)
TEMPO_BINS = (40.0, 220.0, 10.0)
"""Lower edge of the first bin, upper edge of the last, and width, as LOUDNESS_BINS."""


def summarise(
    kept: Sequence[tuple[Track, TrackFacts]],
    facts: Sequence[TrackFacts],
    split_of: Mapping[str, str],
    shards: Sequence[Shard],
) -> dict[str, Any]:
    """Return the part of `stats.json` that is computed.

    Args:
        kept: The tracks in the dataset.
        facts: What became of every track.
        split_of: Split of each track.
        shards: What was written.
    """
    captions = sorted({caption for track, _ in kept for caption in track.captions})
    tokens = count_tokens(captions)
    rejects = Counter(fact.reason for fact in facts if fact.reason is not None)
    loudness_lufs = [fact.lufs for _, fact in kept if fact.lufs is not None]
    return {
        "fingerprint": fingerprint(shards),
        "totals": totals([fact for _, fact in kept]),
        "splits": {
            split: totals([fact for track, fact in kept if split_of[track.track_id] == split])
            for split in used_splits(split_of.values())
        },
        "rejected": dict(sorted(rejects.items())),
        "warnings": dict(sorted(Counter(doubt for _, fact in kept for doubt in fact.warnings).items())),
        "silent_slices": sum(fact.silent_slices for fact in facts),
        "captions": len(captions),
        "captions_a_track": spread([len(track.captions) for track, _ in kept]),
        "caption_tokens": spread(tokens),
        "captions_cut_off": sum(count > MAX_TOKENS for count in tokens),
        "loudness_lufs": spread(loudness_lufs),
        "histograms": {
            "loudness_lufs": histogram(loudness_lufs, *LOUDNESS_BINS),
            TEMPO: histogram(_tempos_bpm(track for track, _ in kept), *TEMPO_BINS),
        },
    }


def totals(facts: Sequence[TrackFacts]) -> dict[str, float]:
    """Return the numbers of tracks, slices and hours."""
    hours = sum(fact.slices_s for fact in facts) / 3600
    return {"tracks": len(facts), "slices": sum(fact.slices for fact in facts), "hours": hours}


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """Return minimum, median and maximum; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return {"min": ordered[0], "median": ordered[len(ordered) // 2], "max": ordered[-1]}


def histogram(values: Sequence[float], lowest: float, highest: float, step: float) -> dict[str, Any] | None:
    """Count values in bins of equal width; what lies outside counts in the bins at the ends.

    Args:
        values: The values.
        lowest: Lower edge of the first bin.
        highest: Upper edge of the last bin, a whole number of steps above.
        step: Width of a bin.

    Returns:
        `counts` from the first bin that is not empty to the last, and `start`, the lower edge of the first; None of nothing.
    """
    if not values:
        return None
    last = round((highest - lowest) / step) - 1
    counted = Counter(min(max(math.floor((value - lowest) / step), 0), last) for value in values)
    first, end = min(counted), max(counted) + 1
    return {"start": lowest + first * step, "step": step, "counts": [counted[index] for index in range(first, end)]}


def _tempos_bpm(tracks: Iterable[Track]) -> list[float]:
    """Return the tempo of each track that has one, measured or told by a table or tag."""
    found = []
    for track in tracks:
        values = (track.columns.get(name) for name in _TEMPO_COLUMNS)
        tempo = next(
            (value for value in values if isinstance(value, int | float) and not isinstance(value, bool)), None
        )
        if tempo is not None and math.isfinite(tempo) and tempo > 0:
            found.append(float(tempo))
    return found
