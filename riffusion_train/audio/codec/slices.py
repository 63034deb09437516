"""A long sound as a folder of images: where each slice lies, and how they become one strip again.

A slice is made like any clip of its preset, so that a model can work on it. Its columns at the edges saw a reflection instead
of its neighbour's sound, so neighbours share some columns and crossfade there. They are joined as images, before the phase is
rebuilt, so that the join is inaudible.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riffusion_train.runtime.errors import InputError

if TYPE_CHECKING:
    from riffusion_train.audio.codec.codec import EncodedClip, SpectrogramCodec
    from riffusion_train.audio.codec.image_file import LoadedImage


SLICE_KEY = "slice"
"""The PNG text that says where in the strip a slice lies, as JSON."""

OVERLAP_PX = 16
"""Columns that neighbours share by default, at most a quarter of the width; the window of no preset covers more."""


def slice_starts(strip_px: int, width_px: int, overlap_px: int) -> list[int]:
    """Return the first columns of slices that cover a strip; the last one may reach beyond its end.

    Raises:
        InputError: If the overlap leaves no step forward.
    """
    if not 0 <= overlap_px <= width_px // 2:
        raise InputError(f"overlap={overlap_px} must lie between 0 and half of the width, {width_px // 2}")
    step = width_px - overlap_px
    return [0, *range(step, max(strip_px - overlap_px, 0), step)]


def slice_text(index: int, starts: Sequence[int], strip_px: int, source: str) -> str:
    """Return the PNG text of one slice."""
    position = {
        "index": index, "count": len(starts), "start_px": starts[index], "strip_px": strip_px, "source": source,
    }  # fmt: skip
    return json.dumps(position, ensure_ascii=False)


def join_slices(
    paths: Sequence[Path], images: Sequence["LoadedImage"], codec: "SpectrogramCodec", overlap_px: int | None
) -> "EncodedClip":
    """Join several images into one strip: slices by their positions, other images in the order given.

    Args:
        paths: Where the images are from, for messages.
        images: At least two.
        codec: Their codec.
        overlap_px: Columns that neighbours share; None takes it from the slices, and 0 for other images.

    Raises:
        InputError: If a slice is missing, slices of several sounds are mixed, or the images do not fit each other.
    """
    from riffusion_train.audio.codec.codec import EncodedClip

    positions = [_position(path, loaded) for path, loaded in zip(paths, images, strict=True)]
    strip_px = None
    known = [position for position in positions if position is not None]
    if overlap_px is None and len(known) == len(images):
        if len({(position["source"], position["strip_px"]) for position in known}) > 1:
            raise InputError(
                f"{paths[0].parent}: slices of several sounds; give the files of one, or overlap=0 to join all"
            )
        order = sorted(range(len(known)), key=lambda index: known[index]["start_px"])
        overlap_px = _overlap(paths[0].parent, [known[index]["start_px"] for index in order], images[0].image.shape[1])
        strip_px = known[0]["strip_px"] - known[order[0]]["start_px"]
        images = [images[index] for index in order]
    clips = [EncodedClip(loaded.image, loaded.max_value or 0.0) for loaded in images]
    try:
        joined = codec.crossfade(clips, overlap_px or 0)
    except InputError as error:
        raise InputError(f"{paths[0].parent}: {error}") from None
    return EncodedClip(joined.image[:, :strip_px], joined.max_value)


def _overlap(folder: Path, starts: Sequence[int], width_px: int) -> int:
    overlaps = set()
    for before, after in itertools.pairwise(starts):
        if after > before + width_px:
            raise InputError(f"{folder}: columns {before + width_px} to {after} are in no image; add the missing slice")
        overlaps.add(before + width_px - after)
    if len(overlaps) > 1:
        raise InputError(f"{folder}: the slices are not evenly spaced; one is missing or duplicated")
    return overlaps.pop()


def _position(path: Path, loaded: "LoadedImage") -> dict[str, Any] | None:
    """Return where in its strip a slice lies; None where the image does not say."""
    try:
        position = json.loads(loaded.texts[SLICE_KEY])
        return {
            "start_px": int(position["start_px"]),
            "strip_px": int(position["strip_px"]),
            "source": str(position["source"]),
        }
    except KeyError:
        return None
    except (ValueError, TypeError):
        raise InputError(f"{path}: its text '{SLICE_KEY}' is damaged; give overlap= to join by name") from None
