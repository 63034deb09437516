"""The listeners that ship with the package: how fast they are, and how often they are right about produced tracks."""

import functools
import importlib.metadata
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import Goal, Row
from benchmarks.timing import timed
from riffusion_train.audio.read import read_audio
from riffusion_train.listening.attributes import measure_key, measure_tempo
from riffusion_train.listening.embedder import Clip, make_embedder
from riffusion_train.runtime.errors import InputError

_START_S, _EXCERPT_S, _CLIP_S = 10, 10, 5
_LEAST_SPEED = 25.0
_LEAST_RIGHT = 20 / 28
_REPEATS = 5


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Measure everything, on one thread.

    Args:
        quick: Two tracks and one repeat, to show that it runs.
        max_clips: At most this many tracks.
    """
    torch.set_num_threads(1)
    tracks = _tracks(2 if quick else max_clips)
    excerpts = {name: (wav[:, : _EXCERPT_S * rate_hz], rate_hz) for name, (wav, rate_hz) in tracks.items()}
    clips = [(wav[:, : _CLIP_S * rate_hz], rate_hz) for wav, rate_hz in tracks.values()]
    embedder = make_embedder("musicnn")
    embedder.hear(clips[:1])  # loads, and allocates
    measure_tempo(*clips[0])  # compiles
    measure_key(*clips[0])

    right, speeds, attributes = [], [], []
    for name, clip in excerpts.items():
        (heard,), cpu_s = timed(functools.partial(embedder.hear, [clip]))
        speeds.append(_EXCERPT_S / cpu_s)
        electronic = max(heard.tags["electronic"], heard.tags["techno"])
        right.append(float((electronic > heard.tags["guitar"]) == ("electronic" in name)))
    for clip in list(excerpts.values())[: 1 if quick else _REPEATS]:
        cpu_s = sum(timed(functools.partial(work, *clip))[1] for work in (measure_tempo, measure_key))
        attributes.append(_EXCERPT_S / cpu_s)
    short = [
        _CLIP_S * len(clips) / timed(functools.partial(embedder.hear, clips))[1]
        for _ in range(1 if quick else _REPEATS)
    ]
    unit = "s of audio per CPU s"
    return [
        Row(f"musicnn, both taggers, excerpts of {_EXCERPT_S} s", unit, speeds, (), Goal.ours_at_least, _LEAST_SPEED,
            median=True),
        Row(f"musicnn, both taggers, clips of {_CLIP_S} s", unit, short, (), Goal.ours_at_least, _LEAST_SPEED, median=True),
        Row("acoustic and electronic tracks told apart by tags", "share", right, (), Goal.ours_at_least, _LEAST_RIGHT),
        Row(f"tempo and key, excerpts of {_EXCERPT_S} s", unit, attributes, median=True),
    ]  # fmt: skip


def _tracks(most: int | None) -> dict[str, Clip]:
    """Return produced tracks by name, from after their introduction on.

    Raises:
        InputError: If their package is not installed.
    """
    try:
        files = importlib.metadata.distribution("immich-memories-music").files or ()
    except importlib.metadata.PackageNotFoundError:
        raise InputError("the benchmark's music is missing: pip install 'riffusion-train[dev]'") from None
    paths = sorted(Path(str(file.locate())) for file in files if str(file).endswith(".opus"))
    # Evenly spread, so that few tracks are of both kinds.
    chosen = paths if most is None else [paths[index * len(paths) // most] for index in range(min(most, len(paths)))]
    tracks = {}
    for path in chosen:
        wav, rate_hz = read_audio(path)
        tracks[path.stem] = (
            np.ascontiguousarray(wav[:, _START_S * rate_hz : (_START_S + _EXCERPT_S) * rate_hz]),
            rate_hz,
        )
    return tracks
