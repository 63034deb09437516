"""What the judge says of the demo's clips: the distance to real music beside its scale, and the search for copies."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from riffusion_train.config.sample import Quality
from riffusion_train.dataset.cache import CACHE_DIR
from riffusion_train.dataset.layout import TRACK_ID
from riffusion_train.dataset.order import spread
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.demo.report import FigureRow
from riffusion_train.demo.steps import NUM_REAL, SCORES_FILE, DemoFolder
from riffusion_train.listening.distances import TooFewClipsError, kernel_inception_distance
from riffusion_train.listening.embedder import Embedder, make_embedder
from riffusion_train.listening.heard import HeardClip, HeardClips, Unit, hear_units
from riffusion_train.listening.real import DecodedSlices
from riffusion_train.model.lazy import lazy_fingerprint, load_lazy_model
from riffusion_train.model.loading import open_model
from riffusion_train.sampling.pipeline import Pipeline

KID = "KID to held-out music, lower is better"
WORDS = "words of the caption that are heard"
COPIES = "clips flagged as copies: nearer to a training slice than real music is"
_ROUND_TRIPS = 64
"""Slices that go through VAE and codec."""
_UNIT_SLICES = 16


@dataclasses.dataclass(frozen=True)
class Judged:
    """The judge's figures of the demo."""

    rows: Sequence[FigureRow] = ()
    """Distance and copies; the reference is real music."""
    words: Sequence[FigureRow] = ()
    """Agreement with the words of the captions; the reference is shuffled captions."""
    notes: Sequence[str] = ()
    """What is left out, and why."""


def judge_demo(folder: DemoFolder, held_out: SpectrogramDataset, trained: SpectrogramDataset) -> Judged:
    """Return the figures of `scores.json` that the demo shows, with the KID of slices that the VAE and the codec have changed.

    Args:
        folder: The demo's folder; its clips have been scored.
        held_out: The split that the clips were compared with.
        trained: The split that copies were searched in; its tracks are not those of the other.
    """
    scored, before = _scored(folder.scores), _scored(folder.scores_before)
    notes = [scored[what]["note"] for what in _SHOWN if scored[what]["ours"] is None and scored[what]["note"]]
    rows, words = [], []
    kid, copies, agreement = (scored[what] for what in _SHOWN)
    if kid["ours"] is not None and kid["reference"] is not None:
        try:
            best = round_trip_kid(folder, held_out, trained)
        except TooFewClipsError as error:
            notes.append(str(error))
        else:
            rows.append(_row(KID, kid["unit"], kid, before.get("kid"), ceiling=best))
    if copies["ours"] is not None:
        rows.append(_row(COPIES, "share of clips, flagged", copies, before.get("copies")))
    if agreement["ours"] is not None:
        words.append(_row(WORDS, "share of words", agreement, before.get("agreement")))
    return Judged(rows, words, list(dict.fromkeys(notes)))


_SHOWN = ("kid", "copies", "agreement")


def _scored(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of scores by what they measure; none where nothing was scored."""
    file = folder / SCORES_FILE
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    return {row["what"]: row for row in rows}


def _row(
    what: str, unit: str, row: dict[str, Any], before: dict[str, Any] | None, ceiling: float | None = None
) -> FigureRow:
    low, high = (row["ours"] if row[name] is None else row[name] for name in ("ours_min", "ours_max"))
    control = row["ours"] if row["reference"] is None else row["reference"]
    return FigureRow(
        what, unit, row["ours"], low, high, control, control, control, ceiling=ceiling,
        before=None if before is None else before["ours"],
    )  # fmt: skip


def round_trip_kid(folder: DemoFolder, held_out: SpectrogramDataset, trained: SpectrogramDataset) -> float:
    """Return the KID of real slices that went through the VAE and the codec: what a perfect UNet would reach.

    They are of the training split, so that no track is compared with itself.

    Raises:
        TooFewClipsError: If there are too few slices.
    """
    embedder = make_embedder("musicnn")
    rows = spread(len(held_out), NUM_REAL)
    cache = held_out.folder.path / CACHE_DIR
    decoded = DecodedSlices(held_out, rows, Quality.normal)
    real = _hear(
        list(decoded.units()), embedder, cache, "listening to the real clips"
    )  # the scores have left them there
    trips = list(_round_trips(folder, trained, spread(len(trained), _ROUND_TRIPS)))
    heard = _hear(trips, embedder, cache, "listening to slices that the VAE has changed")
    return kernel_inception_distance(heard.embeddings, real.embeddings, resamples=0).value


def _hear(units: Sequence[Unit], embedder: Embedder, cache: Path, title: str) -> HeardClips:
    return hear_units(units, embedder, None, cache, title)


def _round_trips(folder: DemoFolder, trained: SpectrogramDataset, rows: Sequence[int]) -> Iterator[Unit]:
    """Yield the work of encoding slices by the VAE, decoding them, and turning them into sound."""
    model = open_model(str(folder.model))
    vae = lazy_fingerprint(model.tensors["vae"])
    tracks = trained.rows[TRACK_ID]
    pipeline: list[Pipeline] = []  # loaded when the first unit is not in the cache

    def load(some: Sequence[int]) -> list[HeardClip | str]:
        if not pipeline:
            pipeline.append(Pipeline(load_lazy_model(model)))
        clips: list[HeardClip | str] = []
        for row in some:
            image = pipeline[0].decode(pipeline[0].encode(trained.image(row)))
            wav = pipeline[0].codec.decode(image, quality=Quality.normal)
            name = f"slice {row}, through the VAE"
            sound = (np.ascontiguousarray(wav, np.float32), pipeline[0].codec.rate_hz)
            clips.append(HeardClip(name, str(tracks[row]), (), sound))
        return clips

    for first in range(0, len(rows), _UNIT_SLICES):
        some = rows[first : first + _UNIT_SLICES]
        key = json.dumps(["round trip", vae, trained.folder.fingerprint, len(trained), list(some)])
        yield Unit(key, len(some), lambda some=some: load(some))  # type: ignore[misc]
