"""Tracks that are the same sound, or nearly: kept together in one split, or all but the first left out."""

import dataclasses
from collections.abc import Sequence

from data_prep.inputs.tracks import Track
from data_prep.output.track_store import TrackResult
from data_prep.tracks.fingerprint import from_text, similar_pairs
from data_prep.tracks.measuring import CLIPPED_SHARE
from riffusion_train.audio.io.read import misnamed
from riffusion_train.config.prepare import Duplicates, PrepareConfig, Truncated


@dataclasses.dataclass(frozen=True)
class _Likeness:
    """A track that is like an earlier one."""

    earlier: int
    later: int
    detail: str


def drop_duplicates(tracks: Sequence[Track], facts: Sequence[TrackResult], config: PrepareConfig) -> list[TrackResult]:
    """Return the facts, with the reason `duplicate` for every track that is like an earlier one that stays.

    Args:
        tracks: All tracks.
        facts: What is known of each, in the same order.
        config: Says whether equal and nearly equal tracks are left out.
    """
    judged = list(facts)
    found = _equal(tracks, facts) if config.duplicates is Duplicates.drop else []
    if config.near_duplicates is Duplicates.drop:
        found = found + _alike(tracks, facts, config.near_duplicate_similarity)
    for likeness in sorted(found, key=lambda item: (item.later, item.earlier)):
        if judged[likeness.earlier].reason is None and judged[likeness.later].reason is None:
            judged[likeness.later] = dataclasses.replace(
                judged[likeness.later], reason="duplicate", detail=likeness.detail
            )
    return judged


def likeness_keys(facts: Sequence[TrackResult], config: PrepareConfig) -> list[tuple[str, ...]]:
    """Return for each track the keys that it shares with those it is like: what holds them in one split."""
    keys = [[f"~pcm {fact.pcm_hash}"] if fact.pcm_hash else [] for fact in facts]
    if config.near_duplicates is not Duplicates.off:
        for first, second, _ in _similar(facts, config.near_duplicate_similarity):
            for index in (first, second):
                keys[index].append(f"~like {facts[first].file_hash} {facts[second].file_hash}")
    return [tuple(own) for own in keys]


def _equal(tracks: Sequence[Track], facts: Sequence[TrackResult]) -> list[_Likeness]:
    first: dict[str, int] = {}
    found = []
    for index, fact in enumerate(facts):
        if fact.reason is None and fact.pcm_hash:
            earlier = first.setdefault(fact.pcm_hash, index)
            if earlier != index:
                found.append(_Likeness(earlier, index, f"the same samples as {tracks[earlier].source}"))
    return found


def _alike(tracks: Sequence[Track], facts: Sequence[TrackResult], least: float) -> list[_Likeness]:
    return [
        _Likeness(first, second, f"{share:.0%} of its fingerprint is that of {tracks[first].source}")
        for first, second, share in _similar(facts, least)
    ]


def _similar(facts: Sequence[TrackResult], least: float) -> list[tuple[int, int, float]]:
    usable = [index for index, fact in enumerate(facts) if fact.reason is None and fact.acoustic]
    pairs = similar_pairs([from_text(facts[index].acoustic or "") for index in usable], least)
    return sorted((usable[one], usable[other], share) for one, other, share in pairs)


def judge(tracks: Sequence[Track], facts: Sequence[TrackResult], config: PrepareConfig) -> list[TrackResult]:
    """Return the facts, with a reason to reject where the config asks for one.

    It looks at the facts alone, so a changed policy decodes nothing anew.

    Args:
        tracks: All tracks.
        facts: What is known of each, in the same order.
        config: The run's config.
    """
    judged = [_judge_one(track, fact, config) for track, fact in zip(tracks, facts, strict=True)]
    return drop_duplicates(tracks, judged, config)


def _judge_one(track: Track, fact: TrackResult, config: PrepareConfig) -> TrackResult:
    wrong_name = misnamed(track.source, fact.container) if fact.container else None
    if wrong_name:  # not in what is kept: that goes by content, and a copy may have another name
        fact = dataclasses.replace(fact, warnings=fact.warnings | {"misnamed": wrong_name})
    if fact.clipped_share >= CLIPPED_SHARE:
        told = f"{fact.clipped_share:.2%} of its samples are cut off at full scale"
        fact = dataclasses.replace(fact, warnings=fact.warnings | {"clipped": told})
        if fact.reason is None and config.max_clipped is not None and fact.clipped_share > config.max_clipped:
            return dataclasses.replace(fact, reason="clipped", detail=told)
    if track.rejection and fact.reason is None:  # its captions waited for what the workers found
        return dataclasses.replace(fact, reason=track.rejection.reason, detail=track.rejection.detail)
    if fact.reason is None and config.truncated is Truncated.reject and "truncated" in fact.warnings:
        return dataclasses.replace(fact, reason="truncated", detail=fact.warnings["truncated"])
    return fact
