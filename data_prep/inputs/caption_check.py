"""The check of all captions against the sound: what is warned of, taken out of a caption, or rejected."""

import dataclasses
from collections.abc import Sequence

from data_prep.captions.checking import Contradiction, contradictions, corrected
from data_prep.captions.heard import Heard, HeardFile
from data_prep.captions.statements import Kind
from data_prep.inputs.captioning import LISTENING
from data_prep.inputs.tracks import Rejection, Sources, Track
from riffusion_train.config.prepare import CaptionCheck

CAPTION_FIXED = "caption corrected"
CHECK_WARNINGS = (*(f"{kind.value} contradicted" for kind in Kind), CAPTION_FIXED)
"""The warnings of checked tracks."""
CONTRADICTED = "caption contradicted"
"""The reason for which check_captions=drop rejects a track."""


def check_sources(sources: Sources, files: Sequence[HeardFile], check: CaptionCheck) -> Sources:
    """Return the sources with the final captions checked, except those that were made by listening.

    Args:
        sources: All tracks, with their captions.
        files: What was heard in each; captions of tracks that were not heard are not checked.
        check: What happens to false statements.
    """
    if check is CaptionCheck.off:
        return sources
    tracks, checked, false = list(sources.tracks), 0, 0
    for index, (track, file) in enumerate(zip(sources.tracks, files, strict=True)):
        if file.heard is not None and track.rejection is None and track.caption_source != LISTENING:
            tracks[index] = _checked(track, file.heard, check)
            checked, false = checked + 1, false + (tracks[index] is not track)
    print(f"captions of {checked} tracks are checked against the sound: {false} state something false")
    return dataclasses.replace(sources, tracks=tracks)


def _checked(track: Track, heard: Heard, check: CaptionCheck) -> Track:
    false = {caption: found for caption in track.captions if (found := contradictions(caption, heard))}
    if not false:
        return track
    every = [one for found in false.values() for one in found]
    if check is CaptionCheck.drop:
        detail = f"{_text(every)}; correct the caption, or set check_captions=warn"
        return dataclasses.replace(track, rejection=Rejection(CONTRADICTED, detail))
    if check is not CaptionCheck.fix:
        kinds = dict.fromkeys(one.statement.kind for one in every)
        warnings = {
            f"{kind.value} contradicted": _text([one for one in every if one.statement.kind is kind]) for kind in kinds
        }
        return dataclasses.replace(track, warnings=track.warnings | warnings)
    captions = dict.fromkeys(corrected(caption, heard) if caption in false else caption for caption in track.captions)
    left = tuple(caption for caption in captions if caption)
    if not left:
        detail = f"{_text(every)}, and nothing else is in the caption; correct it, or set check_captions=warn"
        return dataclasses.replace(track, captions=(), rejection=Rejection(CONTRADICTED, detail))
    return dataclasses.replace(track, captions=left, warnings=track.warnings | {CAPTION_FIXED: _text(every)})


def _text(found: Sequence[Contradiction]) -> str:
    return "; ".join(dict.fromkeys(f"'{one.statement.text}': {one.measured}" for one in found))
