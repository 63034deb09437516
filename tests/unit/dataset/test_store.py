"""Datasets that are not in a folder of this machine, opened and read from local servers."""

import dataclasses
import json
import os
import pickle
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.nano import NANO_SPECTROGRAM, write_dataset
from support.processes import in_child
from support.stores import WebServer, s3_server, web_server

from riffusion_train.config.spectrogram import write_spectrogram
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.dataset.spectrograms import SpectrogramDataset, make_order
from riffusion_train.dataset.store import Prefetch, RangeCache, open_dataset, open_datasets
from riffusion_train.runtime.errors import InputError


def regrouped(folder: Path, rows: int) -> Path:
    """Write the training shard of a dataset anew, with row groups of so many rows."""
    path = folder / "data" / "train-00000.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=rows)
    stats = json.loads((folder / "stats.json").read_text())
    stats["shards"][0]["bytes"] = path.stat().st_size
    (folder / "stats.json").write_text(json.dumps(stats))
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    regrouped(write_dataset(tmp_path / "served" / "songs", num_train=40), 4)
    with web_server(tmp_path / "served") as served:
        yield served


def opened(server: WebServer, folder: Path, **options: float) -> SpectrogramDataset:
    return SpectrogramDataset(open_dataset(f"{server.address}/songs", cache_dir=folder, **options), "train")


def test_a_dataset_on_a_web_server_is_the_one_in_its_folder(server: WebServer, tmp_path: Path) -> None:
    remote = opened(server, tmp_path / "cache")
    local = SpectrogramDataset(open_dataset_folder(server.folder / "songs"), "train")
    assert len(remote) == len(local) == 40
    for index in (0, 17, 39):
        assert np.array_equal(remote.image(index), local.image(index))
        assert remote.captions(index) == local.captions(index)
    assert remote.rows["source"] == local.rows["source"]
    assert remote.folder.spectrogram == NANO_SPECTROGRAM
    assert remote.folder.name == f"{server.address}/songs"


def test_a_row_group_is_fetched_once_in_two_parts_and_never_again(server: WebServer, tmp_path: Path) -> None:
    dataset = opened(server, tmp_path / "cache")
    before = len(server.requests)
    for index in (8, 9, 10, 11, 8):
        dataset.image(index)
        dataset.captions(index)
    assert len(server.requests) == before + 2, "the images, and the columns behind them"
    again = opened(server, tmp_path / "cache")
    again.image(9)
    assert len(server.requests) == before + 2


def test_another_process_reads_what_this_one_opened(server: WebServer, tmp_path: Path) -> None:
    dataset = opened(server, tmp_path / "cache")
    expected = dataset.image(3)
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(copy.image(3), expected)

    def read() -> None:
        dataset.image(30)
        (tmp_path / "said").write_text(dataset.slice_name(30))

    assert in_child(read) == 0
    assert (tmp_path / "said").read_text() == "30.wav at 0.00 s"


def test_a_dataset_in_a_bucket_is_read_and_what_is_wrong_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("s3fs") and pytest.importorskip("fsspec")
    folder = write_dataset(tmp_path / "dataset")
    with s3_server(monkeypatch):
        bucket = fsspec.filesystem("s3", skip_instance_cache=True)
        bucket.mkdir("music")
        bucket.put(str(folder), "music/songs", recursive=True)
        dataset = SpectrogramDataset(open_dataset("s3://music/songs", cache_dir=tmp_path / "cache"), "train")
        local = SpectrogramDataset(open_dataset_folder(folder), "train")
        assert all(np.array_equal(dataset.image(index), local.image(index)) for index in range(12))
        for source, problem in (
            ("s3://nobody/songs", "bucket does not exist; give the address of a folder"),
            ("s3://music/other", "it has no stats.json; give the address of a folder that riffusion prepare wrote"),
        ):
            with pytest.raises(InputError, match=f"dataset={source}: .*{problem}"):
                open_dataset(source, cache_dir=tmp_path / "cache")
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(key)
        with pytest.raises(InputError, match=r"Unable to locate credentials; .* such as AWS_ACCESS_KEY_ID") as refused:
            open_dataset("s3://music/songs", cache_dir=tmp_path / "cache")
        assert "\n" not in str(refused.value)


def test_a_server_without_the_dataset_or_without_ranges_is_one_line(server: WebServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/nothing: it has no stats\.json; give the address of a folder"):
        open_dataset(f"{server.address}/nothing", cache_dir=tmp_path)
    with pytest.raises(InputError, match="foo://x: Protocol not known: foo"):
        open_dataset("foo://x", cache_dir=tmp_path)
    server.ranges = False
    with pytest.raises(InputError, match=r"cannot be read .* the server must answer range requests"):
        opened(server, tmp_path / "cache")


def test_a_folder_that_looks_like_a_hub_id_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "user" / "songs")
    monkeypatch.chdir(tmp_path)
    assert open_dataset("user/songs").path == Path("user/songs")


def test_a_hub_id_names_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is asked through fsspec's own address of it."""
    asked: list[str] = []

    def read(url: str, name: str) -> bytes:
        asked.append(f"{url}/{name}")
        raise InputError("not asked here")

    monkeypatch.setattr("riffusion_train.dataset.store._read_small", read)
    for source in ("user/songs", "user/songs@v2"):
        with pytest.raises(InputError):
            open_dataset(source, cache_dir=tmp_path)
    assert asked == ["hf://datasets/user/songs/stats.json", "hf://datasets/user/songs@v2/stats.json"]


def test_several_datasets_are_one_with_their_weights(tmp_path: Path) -> None:
    first, second = write_dataset(tmp_path / "a"), write_dataset(tmp_path / "b", num_train=5, seed=1)
    folder = open_datasets(f"[{first}, {second}]", [3, 1])
    dataset = SpectrogramDataset(folder, "train")
    assert len(dataset) == 17 and folder.num_slices("validation") == 6
    assert np.array_equal(dataset.image(12), SpectrogramDataset(open_dataset_folder(second), "train").image(0))
    slices = make_order(dataset, 0, None).slice_indices(np.arange(4000))
    assert (slices < 12).sum() == 3000
    for start in range(0, 4000, 40):  # every part of the run has the same share
        assert (slices[start : start + 40] < 12).sum() == 30
    assert folder.fingerprint != open_datasets(f"[{second},{first}]").fingerprint


def test_mixtures_that_cannot_be_are_one_line(tmp_path: Path) -> None:
    first, second = write_dataset(tmp_path / "a"), write_dataset(tmp_path / "b")
    write_spectrogram(second, dataclasses.replace(NANO_SPECTROGRAM, hop_length=320))
    for weights, problem in (
        ([1.0], "1 weights for 2 datasets; give one each"),
        ([1.0, 0.0], "each must be above 0"),
        ([], re.escape(f"{second}: its spectrogram.json differs from that of {first}: hop_length is 320, not 400")),
    ):
        with pytest.raises(InputError, match=problem):
            open_datasets(f"[{first},{second}]", weights)
    with pytest.raises(InputError, match="names no dataset"):
        open_datasets("[]")


def test_the_cache_of_parts_stays_below_its_limit_and_drops_what_was_unused_longest(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path / "parts", 1000)
    for number in range(30):
        cache.get(f"part-{number}", lambda: b"x" * 100)
        os.utime(tmp_path / "parts" / f"part-{number}", (number, number))
        cache.get("part-0", lambda: b"x" * 100)  # used all the time
        assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= 1000
    assert cache.has("part-0") and cache.has("part-29") and not cache.has("part-15")


def test_a_part_that_two_processes_need_is_fetched_once(tmp_path: Path) -> None:
    cache, fetched, begun = RangeCache(tmp_path / "parts", 1000), [], threading.Event()

    def fetch() -> bytes:
        fetched.append(1)
        begun.set()
        threading.Event().wait(0.05)
        return b"part"

    first = threading.Thread(target=cache.get, args=("a", fetch))
    first.start()
    begun.wait()
    assert RangeCache(tmp_path / "parts", 1000).get("a", fetch) == b"part"
    first.join()
    assert len(fetched) == 1


def test_row_groups_are_fetched_before_they_are_needed_and_within_the_limit(server: WebServer, tmp_path: Path) -> None:
    dataset = opened(server, tmp_path / "cache")
    before = len(server.requests)
    first = sum(num_bytes for _, _, num_bytes in dataset.rows.parts_of(0, images=True))  # an image's part and a text's
    batches = [[index, index + 1, index + 2, index + 3] for index in range(0, 40, 4)]
    prefetch = Prefetch(dataset.rows, batches, images=True, limit_bytes=round(2.5 * first))

    def fetched() -> int:
        return len(server.requests) - before

    def comes_to(count: int) -> bool:
        for _ in range(400):
            if fetched() >= count:
                return True
            threading.Event().wait(0.005)
        return False

    assert comes_to(6)
    threading.Event().wait(0.05)
    assert fetched() <= 8, "no more than the limit, until batches are used"
    for _ in batches:
        prefetch.advance()
    assert comes_to(20)
    dataset.image(39)
    dataset.captions(39)
    assert fetched() == 20
    prefetch.close()


def test_a_damaged_shard_of_a_store_is_one_line(server: WebServer, tmp_path: Path) -> None:
    shard = server.folder / "songs" / "data" / "train-00000.parquet"
    shard.write_bytes(b"x" * shard.stat().st_size)
    with pytest.raises(InputError, match="the shards of 'train' cannot be read"):
        opened(server, tmp_path / "cache")


def test_statistics_that_say_another_number_of_rows_are_refused(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "dataset")
    stats = json.loads((folder / "stats.json").read_text())
    stats["shards"][0]["slices"] = 13
    (folder / "stats.json").write_text(json.dumps(stats))
    with pytest.raises(InputError, match=r"it has 12 rows, and stats\.json says 13"):
        SpectrogramDataset(open_dataset_folder(folder), "train")


def test_rows_are_indexed_by_row_by_column_and_by_several_rows(tmp_path: Path) -> None:
    rows = SpectrogramDataset(open_dataset_folder(regrouped(write_dataset(tmp_path / "d"), 5)), "train").rows
    assert rows.column_names[:2] == ["image", "caption"] and rows.num_rows == 12
    assert rows["track_id"] == [f"track-{index}" for index in range(12)]
    assert rows[11]["source"] == "11.wav"
    some = rows.select_columns(["track_id", "source"])
    assert some[[3, 7]] == {"track_id": ["track-3", "track-7"], "source": ["3.wav", "7.wav"]}
    assert [len(table) for table in rows.tables(["source"])] == [5, 5, 2]
    assert [rows.locate(index) for index in (0, 4, 5, 11)] == [(0, 0, 0), (0, 0, 4), (0, 1, 0), (0, 2, 1)]
    assert isinstance(rows.group_of(4, ["caption"])[0], pa.Table)
    with pytest.raises(IndexError):
        rows.locate(12)
