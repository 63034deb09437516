"""Going on from a finished dataset: its slices are laid back as kept tracks, so that only what is new is decoded."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.kept import Slice, TrackFacts, kept_path, read_facts, write_kept
from riffusion_train.dataset import layout

_FIELDS = {field.name for field in dataclasses.fields(TrackFacts)}
_OF_THE_WHOLE = ("misnamed", "clipped")
"""Warnings that are found anew when all tracks are judged."""


def keep_finished(folder: layout.DatasetFolder, kept_dir: Path, key: str) -> int:
    """Keep the tracks of a finished dataset as if they had just been cut.

    A track of which some slices were left out, as balancing does, is cut anew.

    Args:
        folder: The dataset; it was made with the same parameters.
        kept_dir: Where tracks are kept.
        key: Hash of the cutting parameters.

    Returns:
        How many tracks are kept.
    """
    facts = _facts_of(folder.path / layout.MANIFEST_FILE)
    count = 0
    for track_id, rows in itertools.groupby(_rows(folder), key=lambda row: str(row[layout.TRACK_ID])):
        slices = [
            Slice(row[layout.IMAGE]["bytes"], row[layout.START_S], row[layout.DURATION_S], row[layout.MAX_VALUE])
            for row in rows
        ]
        fact = facts.get(track_id)
        if fact is None or fact.slices != len(slices):
            continue
        path = kept_path(kept_dir, fact.sha256, key)
        if read_facts(path) is None:
            write_kept(path, fact, slices)
        count += 1
    return count


def _facts_of(manifest: Path) -> dict[str, TrackFacts]:
    facts = {}
    with manifest.open(encoding="utf-8") as lines:
        for entry in map(json.loads, lines):
            if entry["status"] == "kept":
                fact = TrackFacts(**{name: value for name, value in entry.items() if name in _FIELDS})
                warnings = {name: told for name, told in fact.warnings.items() if name not in _OF_THE_WHOLE}
                facts[entry["track_id"]] = dataclasses.replace(fact, warnings=warnings)
    return facts


def _rows(folder: layout.DatasetFolder) -> Iterator[dict[str, Any]]:
    columns = [layout.TRACK_ID, layout.IMAGE, layout.START_S, layout.DURATION_S, layout.MAX_VALUE]
    for split in layout.SPLITS:
        for shard in folder.shards(split):
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(columns=columns, batch_size=100):
                    yield from batch.to_pylist()
