"""Filters: which tracks are rejected once all of them are known, and which sound the same.

They look at the results alone, so a change of the filters decodes nothing again.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from data_prep.inputs.tracks import Track
from data_prep.tracks.fingerprint import from_text, similar_pairs
from data_prep.tracks.track_store import TrackResult
from riffusion_train.audio.io.clipping import CLIPPED_SHARE
from riffusion_train.audio.io.read import misnamed
from riffusion_train.config.prepare import Duplicates, PrepareConfig, Truncated


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
