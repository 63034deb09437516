"""Which of the tracks that could be cut are left out all the same, by what is known of all of them."""

import dataclasses
from collections.abc import Sequence

from data_prep.clipping import CLIPPED_SHARE
from data_prep.duplicates import drop_duplicates
from data_prep.kept import TrackFacts
from data_prep.tracks import Track
from riffusion_train.audio.io.read import misnamed
from riffusion_train.config.prepare import PrepareConfig, Truncated


def judge(tracks: Sequence[Track], facts: Sequence[TrackFacts], config: PrepareConfig) -> list[TrackFacts]:
    """Return the facts, with a reason to reject where the config asks for one.

    It looks at the facts alone, so a changed policy decodes nothing anew.

    Args:
        tracks: All tracks.
        facts: What is known of each, in the same order.
        config: The run's config.
    """
    judged = [_judge_one(track, fact, config) for track, fact in zip(tracks, facts, strict=True)]
    return drop_duplicates(tracks, judged, config)


def _judge_one(track: Track, fact: TrackFacts, config: PrepareConfig) -> TrackFacts:
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
