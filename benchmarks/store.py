"""Datasets of a thousand to a million slices, and in a store: start of a run, its memory, and how long steps wait for data."""

import contextlib
import functools
import io
import itertools
import json
import multiprocessing
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.local_server import local_server
from benchmarks.report import Goal, Row
from benchmarks.timing import run_in_process
from riffusion_train.config.compose import compose
from riffusion_train.config.spectrogram import load_preset, write_spectrogram
from riffusion_train.config.train import TrainConfig
from riffusion_train.dataset.layout import arrow_schema, shard_name
from riffusion_train.dataset.order import AddressedBatches
from riffusion_train.dataset.spectrograms import (
    ROWS_PER_BLOCK,
    PixelItems,
    SpectrogramDataset,
    choose_window,
    make_order,
)
from riffusion_train.dataset.store import open_dataset
from riffusion_train.training.caches import fetched_ahead
from riffusion_train.training.run import run_training
from riffusion_train.training.tracking import peak_memory_bytes

_SIZES = (1_000, 100_000, 1_000_000)
_SHARD_ROWS = 100_000
_REPEATS, _STEPS = 3, 3
_LATENCY_S = 0.05
_BATCH_SIZE, _IMAGES_PER_S, _BATCHES, _FIRST_BATCHES, _STORED = 32, 150.0, 100, 20, 20_000
"""The pace of the consumer is that of SD 1.5 on one H100 at its best, which no CPU reaches; it sleeps meanwhile."""
_WAIT_GOAL_PERCENT = 2.0


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Measure everything.

    Args:
        quick: One repeat of small datasets, to show that it runs.
        max_clips: Slices of the largest dataset.
    """
    sizes = (100, 1000) if quick else tuple(size for size in _SIZES if size <= (max_clips or size))
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    peaks: dict[int, list[float]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        datasets = {size: write_small(Path(folder) / str(size), size) for size in sizes}
        for repeat in range(1 if quick else _REPEATS):
            for size, dataset in datasets.items():
                work = functools.partial(three_steps, dataset, Path(folder) / f"run-{size}-{repeat}")
                taken_s, peak = run_in_process(work)
                seconds[size].append(taken_s)
                peaks[size].append(peak / 2**30)
        stored = write_small(Path(folder) / "stored", 2000 if quick else _STORED, noise=True)
        batches = 40 if quick else _BATCHES
        parts = (Path(folder) / f"parts-{number}" for number in itertools.count())  # nothing is cached from before
        waits: dict[tuple[bool, bool], list[float]] = {}
        for _ in range(1 if quick else _REPEATS):
            for images, remote in itertools.product((True, False), (True, False)):
                cache = next(parts) if remote else None
                reading = functools.partial(waiting_percent, stored, cache, batches, images)
                waits.setdefault((images, remote), []).append(run_in_process(reading))
    small = sizes[0]
    rows = []
    for size in sizes[1:]:
        about = f"{size} slices, against {small}"
        rows += [
            Row(f"riffusion train, tiny, from the start to the end of {_STEPS} steps: {about}", "CPU s", seconds[size],
                seconds[small], Goal.ratio_at_most, 1.5, median=True),
            Row(f"peak memory of it: {about}", "GiB", peaks[size], peaks[small], Goal.ratio_at_most, 1.1, median=True),
        ]  # fmt: skip
    goal = (Goal.ours_at_most, _WAIT_GOAL_PERCENT)
    about = (
        f"of {_IMAGES_PER_S:g}/s from a web server of {1000 * _LATENCY_S:g} ms latency, 2 workers, without the first "
        f"{_FIRST_BATCHES} batches, against a folder"
    )
    rows += [
        Row(f"waiting for {what} {about}", "% of the time", waits[images, True], waits[images, False], *goal, median=True)
        for images, what in ((True, "images"), (False, "captions of cached latents"))
    ]  # fmt: skip
    return rows


def three_steps(dataset: Path, run_folder: Path) -> tuple[float, int]:
    """Train for three steps with caches; return the CPU seconds that it took, and the peak memory in bytes."""
    arguments = ["experiment=tiny_cpu", f"dataset={dataset}", f"run={run_folder}", f"max_train_steps={_STEPS}"]
    arguments += ["num_threads=1", "tracker=files", f"cache_dir={run_folder}-caches", "preview.every_steps=0"]
    config = compose("train", TrainConfig, [*arguments, "validation=none"])
    start = time.process_time()
    run_training(config, arguments)
    return time.process_time() - start, peak_memory_bytes(torch.device("cpu"))


def waiting_percent(dataset: Path, cache: Path | None, count: int, images: bool) -> float:
    """Read batches at the pace of a GPU; return the percentage of the time that it waits, without the first batches.

    Args:
        dataset: The folder.
        cache: Where its row groups are kept as they come from a web server of it; None reads the folder.
        count: Batches.
        images: Whether images are read, or captions alone.
    """
    torch.set_num_threads(1)
    with contextlib.nullcontext(str(dataset)) if cache is None else _web_server(dataset) as source:
        table = SpectrogramDataset(open_dataset(source, cache_dir=cache), "train")
        order = AddressedBatches(
            make_order(table, 0, None if cache is None else choose_window(table, None, 50.0)),
            batch_size=_BATCH_SIZE,
            accumulation=1,
            rank=0,
            world_size=1,
            first_step=0,
            last_step=count,
        )
        items = PixelItems(table, latent_shape=(4, 16, 16), seed=0) if images else _Captions(table)
        slices = ([address.slice_index for address in batch] for batch in order)
        waits_s = []
        loader = iter(torch.utils.data.DataLoader(items, batch_sampler=order, num_workers=2))
        # A run on a GPU receives batches from the loader's processes in a thread (pin_memory=True), which needs a GPU itself.
        with fetched_ahead(table, slices, images=images) as advance, ThreadPoolExecutor(1) as receiver:
            batch = receiver.submit(next, loader)
            for number in range(count):
                if number == _FIRST_BATCHES:
                    begin = time.perf_counter()
                start = time.perf_counter()
                batch.result()
                batch = receiver.submit(next, loader, None)
                advance()
                waits_s.append(time.perf_counter() - start)
                time.sleep(_BATCH_SIZE / _IMAGES_PER_S)
            return 100 * sum(waits_s[_FIRST_BATCHES:]) / (time.perf_counter() - begin)


class _Captions(torch.utils.data.Dataset[int]):
    """Items of a run whose latents are cached: the number of the captions."""

    def __init__(self, table: SpectrogramDataset) -> None:
        self._table = table

    def __getitem__(self, address: object) -> int:
        return len(self._table.captions(address.slice_index))  # type: ignore[attr-defined]


def write_small(folder: Path, count: int, *, noise: bool = False) -> Path:
    """Write a dataset of so many small slices in the `tiny` format; return its folder. Images repeat, captions do not.

    Args:
        folder: Where.
        count: Slices.
        noise: Whether images are noise, which PNG cannot compress, rather than flat.
    """
    preset = load_preset("tiny")
    (folder / "data").mkdir(parents=True)
    write_spectrogram(folder, preset)
    rng = np.random.default_rng(0)
    shape = (preset.n_mels, preset.width_px)
    images = [
        _png(rng.integers(0, 256, shape).astype(np.uint8) if noise else np.full(shape, 2 * number, np.uint8))
        for number in range(ROWS_PER_BLOCK)
    ]
    shards = []
    for first in range(0, count, _SHARD_ROWS):
        rows = min(_SHARD_ROWS, count - first)
        path = folder / "data" / shard_name("train", first // _SHARD_ROWS)
        with pq.ParquetWriter(path, arrow_schema(), use_dictionary=["source", "track_id"]) as writer:
            for start in range(first, first + rows, ROWS_PER_BLOCK):
                writer.write_table(_group(start, min(ROWS_PER_BLOCK, first + rows - start), images, preset.clip_s))
        shards.append({"name": path.name, "split": "train", "slices": rows, "bytes": path.stat().st_size})
    (folder / "stats.json").write_text(
        json.dumps({"schema_version": 1, "fingerprint": f"{count:064d}", "shards": shards})
    )
    return folder


def _png(image: np.ndarray) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(image).save(packed, "PNG")
    return packed.getvalue()


def _group(start: int, count: int, images: list[bytes], clip_s: float) -> pa.Table:
    numbers = range(start, start + count)
    return pa.Table.from_pydict(
        {
            "image": [{"bytes": images[number % len(images)], "path": None} for number in numbers],
            "caption": [[f"band {number}"] for number in numbers],
            "track_id": [f"track-{number // 20}" for number in numbers],
            "start_s": [0.0] * count,
            "duration_s": [clip_s] * count,
            "loudness_lufs": [-14.0] * count,
            "max_value": [1e5] * count,
            "source": [f"{number // 20}.wav" for number in numbers],
        },
        schema=arrow_schema(),
    )


@contextlib.contextmanager
def _web_server(folder: Path) -> Iterator[str]:
    """Serve a folder, each answer after the latency, from a process of its own, as a store is; gives the address."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(folder, sender), daemon=True)
    process.start()
    try:
        yield receiver.recv()
    finally:
        process.kill()
        process.join()


def _serve(folder: Path, sender: Connection) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(_LATENCY_S)
            path = folder / self.path.lstrip("/")
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            size = path.stat().st_size
            first, last = (int(asked[1]), min(int(asked[2]), size - 1)) if asked else (0, size - 1)
            with path.open("rb") as file:
                file.seek(first)
                content = file.read(last + 1 - first)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(content)))
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with local_server(Handler) as address:
        sender.send(address)
        threading.Event().wait()
