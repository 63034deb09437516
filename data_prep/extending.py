"""Going on from a finished dataset: its slices are laid back as kept tracks, so that only what is new is decoded."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.kept import Slice, TrackFacts, kept_path, note_origin, read_facts, write_kept
from data_prep.output import LEFT_OUT_DIR
from data_prep.writers.choose import read_rows
from riffusion_train.dataset import layout
from riffusion_train.runtime.files import link_or_copy

_FIELDS = {field.name for field in dataclasses.fields(TrackFacts)}
_OF_THE_WHOLE = ("misnamed", "clipped")
"""Warnings that are found anew when all tracks are judged."""


def keep_finished(folder: layout.DatasetFolder, kept_dir: Path, key: str) -> int:
    """Keep the tracks of a finished dataset as if they had just been cut, those that were left out of it as well.

    Args:
        folder: The dataset; it was made with the same parameters.
        kept_dir: Where tracks are kept.
        key: Hash of the cutting parameters.

    Returns:
        How many tracks are kept.
    """
    facts = _facts_of(folder.path / layout.MANIFEST_FILE)
    for fact in facts.values():
        if fact.origin:
            note_origin(kept_dir, fact.origin, fact.file_hash)
    count = 0
    for left_out in sorted((folder.path / LEFT_OUT_DIR).glob(f"*-{key}.arrow")):
        link_or_copy(left_out, kept_dir / left_out.name)
        count += bool(getattr(read_facts(left_out), "slices", 0))
    for track_id, rows in itertools.groupby(_rows(folder), key=lambda row: str(row[layout.TRACK_ID])):
        slices = [
            Slice(row[layout.IMAGE]["bytes"], row[layout.START_S], row[layout.DURATION_S], row[layout.MAX_VALUE])
            for row in rows
        ]
        known = facts.get(track_id)
        if known is None or known.reason is not None or known.slices != len(slices):
            continue  # some of its slices were left out, as balancing does
        path = kept_path(kept_dir, known.file_hash, key)
        if read_facts(path) is None:
            write_kept(path, dataclasses.replace(known, origin=None), slices)
        count += 1
    return count


def _facts_of(manifest: Path) -> dict[str, TrackFacts]:
    facts = {}
    with manifest.open(encoding="utf-8") as lines:
        for entry in map(json.loads, lines):
            if "file_hash" not in entry:
                continue  # a manifest of before there was one; its track is done anew
            fact = TrackFacts(**{name: value for name, value in entry.items() if name in _FIELDS})
            warnings = {name: told for name, told in fact.warnings.items() if name not in _OF_THE_WHOLE}
            facts[entry["track_id"]] = dataclasses.replace(fact, warnings=warnings, file_hash=fact.file_hash or "")
    return facts


def _rows(folder: layout.DatasetFolder) -> Iterator[dict[str, Any]]:
    return (row for split in layout.SPLITS for row in read_rows(folder, split))
