"""The preparation beside its peers': how much audio becomes pictures in a second of CPU, and where the time goes.

The tracks are whole produced ones in Ogg Vorbis at 44.1 kHz, from the file to PNG on the disk. Ours also hashes, judges and
keeps them; the peers do not.
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
from benchmarks.crew_work import make_bare_work, make_forgetful_worker
from benchmarks.prepare_peers import (
    TETICIO_HOP,
    TETICIO_N_FFT,
    TETICIO_PX,
    TETICIO_RATE_HZ,
    OriginalBatch,
    TeticioImages,
)
from benchmarks.report import Goal, Row
from data_prep.engine.process_pool import run_in_processes
from data_prep.output.track_store import Slice, TrackResult, write_kept
from data_prep.tracks.measuring import clipped_share, pcm_hash
from data_prep.tracks.track_worker import CutParameters, TrackWorker, WorkerSetup, mixed_for
from riffusion_train.audio.codec.codec import SpectrogramCodec, make_codec
from riffusion_train.audio.codec.image_file import png_bytes
from riffusion_train.audio.io.loudness import gain_db, measure_lufs
from riffusion_train.audio.io.read import decode_audio, resample
from riffusion_train.audio.io.write import write_audio
from riffusion_train.config.prepare import Tail
from riffusion_train.config.spectrogram import SpectrogramConfig, load_preset

_TRACKS = (
    "calm_acoustic_1", "energetic_acoustic_2", "energetic_electronic_2", "happy_electronic_s411",
    "nostalgic_acoustic_s522", "tender_electronic_1",
)  # fmt: skip
_REPEATS = 3
_TASKS_A_RUN = 8
_IDLE_LOAD = 1.2
_BARE_ROUNDS = 60_000
_RATE = "audio s a CPU s"
_TETICIO_SUFFIXES = (
    ".wav",
    ".mp3",
    ".ogg",
)  # its script takes the first two; decoding, common to both, weighs more and more
_TETICIO = SpectrogramConfig(
    name="teticio", rate_hz=TETICIO_RATE_HZ, hop_length=TETICIO_HOP, win_length=TETICIO_N_FFT, n_fft=TETICIO_N_FFT,
    n_mels=TETICIO_PX, width_px=TETICIO_PX, f_max_hz=TETICIO_RATE_HZ / 2, decode_rate_hz=TETICIO_RATE_HZ,
    decode_n_fft=TETICIO_N_FFT,
)  # fmt: skip


def run(*, quick: bool = False, most_clips: int | None = None) -> list[Row]:
    """Measure everything.

    Args:
        quick: Take one track once, to show that it runs.
        most_clips: Take no more than this many tracks.
    """
    repeats = 1 if quick else _REPEATS
    # One thread for both sides, as our workers have: numpy's products too, whose threads would spin on our account.
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)
        scratch = Path(folder)
        tracks = _write_tracks(_TRACKS[: 1 if quick else most_clips], scratch)
        rows = _against_peers(tracks, repeats, scratch)
        for preset in ("hifi", "riffusion_v1"):
            rows += _stages(tracks, repeats, preset, scratch)
        return rows + _on_two_cores(tracks, quick, scratch)


def _write_tracks(names: Sequence[str], scratch: Path) -> list[Path]:
    """Write the tracks, half a minute each; as they come they are Opus, of which decoding alone is half of all work."""
    paths = [scratch / f"{name}.ogg" for name in names]
    for path in paths:
        write_audio(path, load_track(path.stem), RATE_HZ)
    return paths


def cut_parameters(spectrogram: SpectrogramConfig) -> CutParameters:
    """Return the settings of `riffusion prepare tail=drop`: full windows alone, which is what the peers make."""
    clip_s = spectrogram.clip_s
    return CutParameters(spectrogram, clip_s, clip_s, -60.0, -14.0, -1.0, tail=Tail.drop)


def _against_peers(tracks: Sequence[Path], repeats: int, scratch: Path) -> list[Row]:
    original = OriginalBatch()
    names = {"hifi": 3.5, "riffusion_v1": 1.8}
    methods = {name: _ours(load_preset(name), scratch) for name in names}
    speeds = _speeds({"the original": lambda path: original(path, scratch), **methods}, tracks, repeats)
    rows = [
        Row(f"{name} prepared, against the original work", _RATE, speeds[name], speeds["the original"],
            Goal.ratio_at_least, limit, median=True)
        for name, limit in names.items()
    ]  # fmt: skip
    methods = {"ours": _ours(_TETICIO, scratch), "teticio's": TeticioImages()}
    for suffix in _TETICIO_SUFFIXES:
        speeds = _speeds(methods, [_as_format(path, suffix) for path in tracks], repeats)
        what = f"teticio prepared of {suffix[1:]}, against teticio's work at its parameters"
        rows.append(Row(what, _RATE, speeds["ours"], speeds["teticio's"], Goal.ratio_at_least, 2.0, median=True))
    return rows


def _ours(spectrogram: SpectrogramConfig, scratch: Path) -> Callable[[Path], Any]:
    return functools.partial(_work_anew, TrackWorker(cut_parameters(spectrogram), scratch, spectrogram.name), scratch)


def _as_format(path: Path, suffix: str) -> Path:
    """Return a track in another format, written at the first call."""
    other = path.with_suffix(suffix)
    if not other.exists():
        write_audio(other, load_track(path.stem), RATE_HZ)
    return other


def _speeds(methods: dict[str, Callable[[Path], Any]], tracks: Sequence[Path], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of audio in a CPU second, of each method and track; the methods take turns."""
    speeds: dict[str, list[float]] = {name: [] for name in methods}
    for work in methods.values():
        work(tracks[0])  # compiles, allocates, imports
    for path in tracks:
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        for _ in range(repeats):
            for name, work in methods.items():
                seconds[name].append(_cpu_seconds(work, path))
        for name, found in seconds.items():
            speeds[name].append(soundfile.info(str(path)).duration / statistics.median(found))
    return speeds


def _work_anew(worker: TrackWorker, scratch: Path, path: Path) -> None:
    for kept in scratch.glob("*.arrow"):
        kept.unlink()
    facts = worker(str(path))
    assert facts.slices, facts


def _cpu_seconds(work: Callable[[Path], Any], path: Path) -> float:
    start = time.process_time()
    work(path)
    return time.process_time() - start


def _stages(tracks: Sequence[Path], repeats: int, preset: str, scratch: Path) -> list[Row]:
    codec = make_codec(load_preset(preset))
    shares: dict[str, list[float]] = {}
    for path in tracks:
        runs = [_one_by_one(path, codec, scratch) for _ in range(repeats)]
        whole = sum(statistics.median(run[stage] for run in runs) for stage in runs[0])
        for stage in runs[0]:
            shares.setdefault(stage, []).append(statistics.median(run[stage] for run in runs) / whole)
    return [Row(f"{preset}: {stage}", "share of the CPU time", found) for stage, found in shares.items()]


def _one_by_one(path: Path, codec: SpectrogramCodec, scratch: Path) -> dict[str, float]:
    """Return the CPU seconds of each stage of a track."""
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = work()
        seconds[stage] = seconds.get(stage, 0.0) + time.process_time() - start
        return result

    decoded = timed("decode", lambda: decode_audio(path))
    timed("hashes, clipping", lambda: (pcm_hash(decoded.wav, decoded.rate_hz), clipped_share(decoded.wav)))
    wav = timed("mix down", lambda: mixed_for(codec.config.channels, decoded.wav))
    wav = timed("resample", functools.partial(resample, wav, decoded.rate_hz, codec.rate_hz))
    lufs = timed("loudness", lambda: measure_lufs(wav, codec.rate_hz))
    wav = timed("gain", lambda: wav * np.float32(10 ** (gain_db(wav, lufs, -14.0, -1.0) / 20)))
    slices = []
    for first in range(0, wav.shape[1] - codec.clip_samples + 1, codec.clip_samples):
        window = wav[:, first : first + codec.clip_samples]
        encoded = timed("STFT, mel, image", functools.partial(codec.encode, window))
        png = timed("PNG", functools.partial(png_bytes, encoded.image))
        slices.append(Slice(png, 0.0, 5.11, encoded.max_value))
    timed("keep", lambda: write_kept(scratch / "stages.arrow", TrackResult(""), slices))
    return seconds


def _on_two_cores(tracks: Sequence[Path], quick: bool, scratch: Path) -> list[Row]:
    """How much faster two workers are than one by the clock, beside two processes of bare arithmetic on the same machine.

    The two kinds take turns. Starting the processes does not count; other work on the machine does, so without an idle
    machine the figure is shown and not judged.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    count, rounds = (4, 1) if quick else (_TASKS_A_RUN, 2)
    tasks = [str(path) for path in itertools.islice(itertools.cycle(tracks), count)]
    ours, bare = [], []
    for number in range(rounds):
        clocks = {}
        for crew in (1, 2):
            folder = scratch / f"crew-{number}-{crew}"
            folder.mkdir()
            setup = WorkerSetup(cut_parameters(load_preset("hifi")), str(folder), "key")
            clocks["ours", crew] = _clock(make_forgetful_worker, setup, tasks, crew, scratch)
            clocks["bare", crew] = _clock(make_bare_work, None, [_BARE_ROUNDS] * count, crew, scratch)
        ours.append(clocks["ours", 1] / clocks["ours", 2])
        bare.append(clocks["bare", 1] / clocks["bare", 2])
    what = f"two workers over one, by the clock, against bare arithmetic, on {os.cpu_count()} cores"
    if load > _IDLE_LOAD:  # the clock then tells of the neighbours
        return [Row(f"{what} that were not idle", "times faster", ours, bare, median=True)]
    return [Row(what, "times faster", ours, bare, Goal.ours_at_least, 1.8, median=True)]


def _clock(
    make: Callable[[Any], Callable[[Any], Any]], setup: Any, tasks: list[Any], crew: int, scratch: Path
) -> float:
    """Return the seconds for each task, from when every process has done its first."""
    times = [time.perf_counter() for _ in run_in_processes(make, setup, tasks, crew, scratch / "log")]
    return (times[-1] - times[crew - 1]) / (len(times) - crew)
