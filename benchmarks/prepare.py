"""The preparation compared with its peers: how much audio becomes images per CPU second, and where the time goes.

The input is whole produced tracks in Ogg Vorbis at 44.1 kHz; the output is PNG files. Ours also hashes the tracks, checks them
and stores their slices; the peers do not.
"""

import functools
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from threadpoolctl import threadpool_limits

from benchmarks.clips import RATE_HZ, load_track
from benchmarks.prepare_peers import (
    TETICIO_HOP,
    TETICIO_N_FFT,
    TETICIO_PX,
    TETICIO_RATE_HZ,
    OriginalBatch,
    TeticioImages,
)
from benchmarks.report import Goal, Row
from benchmarks.timing import alternate, timed
from data_prep.engine.workers import run_in_processes
from data_prep.tracks.measuring import pcm_hash
from data_prep.tracks.track_store import Slice, TrackResult, TrackStore
from data_prep.tracks.track_worker import CutParameters, TrackWorker, WorkerSetup, make_track_worker, mix_channels
from riffusion_train.audio.codec import SpectrogramCodec, make_codec
from riffusion_train.audio.image_file import png_bytes
from riffusion_train.audio.loudness import clipped_share, gain_db, measure_lufs
from riffusion_train.audio.read import decode_audio, resample
from riffusion_train.audio.write import write_audio
from riffusion_train.config.prepare import Tail
from riffusion_train.config.spectrogram import SpectrogramConfig, load_preset

_TRACKS = (
    "calm_acoustic_1", "energetic_acoustic_2", "energetic_electronic_2", "happy_electronic_s411",
    "nostalgic_acoustic_s522", "tender_electronic_1",
)  # fmt: skip
_REPEATS = 3
_TASKS_PER_RUN = 8
_IDLE_LOAD = 1.2
_ARITHMETIC_ROUNDS = 60_000
_UNIT = "audio s per CPU s"
_TETICIO_SUFFIXES = (".wav", ".mp3", ".ogg")  # in the order of the share of decoding; its script reads the first two
_TETICIO = SpectrogramConfig(
    name="teticio", rate_hz=TETICIO_RATE_HZ, hop_length=TETICIO_HOP, win_length=TETICIO_N_FFT, n_fft=TETICIO_N_FFT,
    n_mels=TETICIO_PX, width_px=TETICIO_PX, f_max_hz=TETICIO_RATE_HZ / 2, decode_rate_hz=TETICIO_RATE_HZ,
    decode_n_fft=TETICIO_N_FFT,
)  # fmt: skip


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Measure everything.

    Args:
        quick: Prepare one track once, to show that it runs.
        max_clips: Use at most this many tracks.
    """
    repeats = 1 if quick else _REPEATS
    # One thread for both sides, as in our workers; also for numpy's products, whose idle threads would count as CPU time.
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)
        scratch = Path(folder)
        tracks = _write_tracks(_TRACKS[: 1 if quick else max_clips], scratch)
        rows = _against_peers(tracks, repeats, scratch)
        for preset in ("hifi", "riffusion_v1"):
            rows += _stages(tracks, repeats, preset, scratch)
        return rows + _on_two_cores(tracks, quick, scratch)


def _write_tracks(names: Sequence[str], scratch: Path) -> list[Path]:
    """Write the tracks, half a minute each, as Ogg; decoding their own format, Opus, would be half of all work."""
    paths = [scratch / f"{name}.ogg" for name in names]
    for path in paths:
        write_audio(path, load_track(path.stem), RATE_HZ)
    return paths


def cut_parameters(spectrogram: SpectrogramConfig) -> CutParameters:
    """Return the settings of `riffusion prepare tail=drop`: full windows only, as the peers make them."""
    clip_s = spectrogram.clip_s
    return CutParameters(spectrogram, clip_s, clip_s, -60.0, -14.0, -1.0, tail=Tail.drop)


def _against_peers(tracks: Sequence[Path], repeats: int, scratch: Path) -> list[Row]:
    original = OriginalBatch()
    names = {"hifi": 3.5, "riffusion_v1": 1.8}
    methods = {name: _ours(load_preset(name), scratch) for name in names}
    speeds = _speeds({"the original": lambda path: original(path, scratch), **methods}, tracks, repeats)
    rows = [
        Row(f"{name} preparation, against the original's", _UNIT, speeds[name], speeds["the original"],
            Goal.ratio_at_least, limit, median=True)
        for name, limit in names.items()
    ]  # fmt: skip
    methods = {"ours": _ours(_TETICIO, scratch), "teticio's": TeticioImages()}
    for suffix in _TETICIO_SUFFIXES:
        speeds = _speeds(methods, [_as_format(path, suffix) for path in tracks], repeats)
        what = f"preparation of {suffix[1:]} with teticio's parameters, against teticio's"
        rows.append(Row(what, _UNIT, speeds["ours"], speeds["teticio's"], Goal.ratio_at_least, 2.0, median=True))
    return rows


def _ours(spectrogram: SpectrogramConfig, scratch: Path) -> Callable[[Path], Any]:
    return functools.partial(
        _prepare_again, TrackWorker(cut_parameters(spectrogram), TrackStore(scratch, spectrogram.name)), scratch
    )


def _as_format(path: Path, suffix: str) -> Path:
    """Return a track in another format; the first call writes it."""
    other = path.with_suffix(suffix)
    if not other.exists():
        write_audio(other, load_track(path.stem), RATE_HZ)
    return other


def _speeds(methods: dict[str, Callable[[Path], Any]], tracks: Sequence[Path], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of audio per CPU second for each method and track; the methods alternate."""
    speeds: dict[str, list[float]] = {name: [] for name in methods}
    for work in methods.values():
        work(tracks[0])  # compiles, allocates, imports
    for path in tracks:
        works = {name: lambda _, work=work, path=path: work(path) for name, work in methods.items()}
        for name, seconds in alternate(works, repeats).items():
            speeds[name].append(soundfile.info(str(path)).duration / statistics.median(seconds))
    return speeds


def _prepare_again(worker: TrackWorker, scratch: Path, path: Path) -> None:
    for stored in scratch.glob("*.arrow"):
        stored.unlink()
    result = worker(str(path))
    assert result.slices, result


def _stages(tracks: Sequence[Path], repeats: int, preset: str, scratch: Path) -> list[Row]:
    codec = make_codec(load_preset(preset))
    shares: dict[str, list[float]] = {}
    for path in tracks:
        runs = [_stage_seconds(path, codec, scratch) for _ in range(repeats)]
        whole = sum(statistics.median(run[stage] for run in runs) for stage in runs[0])
        for stage in runs[0]:
            shares.setdefault(stage, []).append(statistics.median(run[stage] for run in runs) / whole)
    return [Row(f"{preset}: {stage}", "share of the CPU time", values) for stage, values in shares.items()]


def _stage_seconds(path: Path, codec: SpectrogramCodec, scratch: Path) -> dict[str, float]:
    """Return the CPU seconds of each stage of a track."""
    seconds: dict[str, float] = {}

    def measured(stage: str, work: Callable[[], Any]) -> Any:
        result, stage_s = timed(work)
        seconds[stage] = seconds.get(stage, 0.0) + stage_s
        return result

    decoded = measured("decode", lambda: decode_audio(path))
    measured("hashes, clipping", lambda: (pcm_hash(decoded.samples, decoded.rate_hz), clipped_share(decoded.wav)))
    wav = measured("mix down", lambda: mix_channels(codec.config.channels, decoded.wav))
    wav = measured("resample", functools.partial(resample, wav, decoded.rate_hz, codec.rate_hz))
    lufs = measured("loudness", lambda: measure_lufs(wav, codec.rate_hz))
    wav = measured("gain", lambda: wav * np.float32(10 ** (gain_db(wav, lufs, -14.0, -1.0) / 20)))
    slices = []
    for first in range(0, wav.shape[1] - codec.clip_samples + 1, codec.clip_samples):
        window = wav[:, first : first + codec.clip_samples]
        encoded = measured("STFT, mel, image", functools.partial(codec.encode, window))
        png = measured("PNG", functools.partial(png_bytes, encoded.image))
        slices.append(Slice(png, 0.0, 5.11, encoded.max_value))
    measured("store", lambda: TrackStore(scratch, "stages").write(TrackResult(""), slices))
    return seconds


def _on_two_cores(tracks: Sequence[Path], quick: bool, scratch: Path) -> list[Row]:
    """Measure how much faster two workers are than one by wall clock, compared with two processes of bare arithmetic.

    The two kinds alternate. Starting the processes does not count. Other work on the machine does, so on a machine that is
    not idle the row has no goal.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    count, rounds = (4, 1) if quick else (_TASKS_PER_RUN, 2)
    tasks = [str(path) for path in itertools.islice(itertools.cycle(tracks), count)]
    ours, bare = [], []
    for number in range(rounds):
        clocks = {}
        for num_workers in (1, 2):
            folder = scratch / f"workers-{number}-{num_workers}"
            folder.mkdir()
            setup = WorkerSetup(cut_parameters(load_preset("hifi")), TrackStore(folder, "key"))
            clocks["ours", num_workers] = _seconds_per_task(
                make_worker_without_store, setup, tasks, num_workers, scratch
            )
            clocks["bare", num_workers] = _seconds_per_task(
                make_arithmetic, None, [_ARITHMETIC_ROUNDS] * count, num_workers, scratch
            )
        ours.append(clocks["ours", 1] / clocks["ours", 2])
        bare.append(clocks["bare", 1] / clocks["bare", 2])
    what = f"two workers over one, wall clock, against bare arithmetic, on {os.cpu_count()} cores"
    if load > _IDLE_LOAD:  # the wall clock then includes other programs
        return [Row(f"{what} that were not idle", "times faster", ours, bare, median=True)]
    return [Row(what, "times faster", ours, bare, Goal.ours_at_least, 1.8, median=True)]


def _seconds_per_task(
    make: Callable[[Any], Callable[[Any], Any]], setup: Any, tasks: list[Any], num_workers: int, scratch: Path
) -> float:
    """Return the wall time per task, counted from when every process has done its first."""
    times = [time.perf_counter() for _ in run_in_processes(make, setup, tasks, num_workers, scratch / "log")]
    return (times[-1] - times[num_workers - 1]) / (len(times) - num_workers)


def make_worker_without_store(setup: WorkerSetup) -> Callable[[str], Any]:
    """Build the worker of a run, but one that stores nothing, so that it prepares a track anew each time."""
    worker = make_track_worker(setup)

    def work(locator: str) -> Any:
        result = worker(locator)
        for stored in setup.store.folder.glob("*.arrow"):
            stored.unlink(missing_ok=True)
        return result

    return work


def make_arithmetic(setup: None) -> Callable[[int], float]:
    """Build arithmetic within the first-level cache: the best speedup that the machine gives two processes."""

    def work(rounds: int) -> float:
        values = np.linspace(0.0, 1.0, 1000)
        for _ in range(rounds):
            values = np.sqrt(values * values + 1e-3)
        return float(values.sum())

    return work
