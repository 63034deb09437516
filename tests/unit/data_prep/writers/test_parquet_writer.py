import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.writers.formats import ROWS_PER_GROUP, ParquetWriter, fingerprint
from riffusion_train.dataset import layout


def rows_of(count, bytes_each):
    images = np.random.default_rng(0).integers(0, 256, (count, bytes_each), np.uint8)
    for index, image in enumerate(images):
        values = {layout.MAX_VALUE: 1.0, layout.START_S: float(index), layout.DURATION_S: 5.0, layout.SOURCE: "a.wav"}
        yield values | {
            layout.IMAGE: {"bytes": image.tobytes(), "path": None},
            layout.CAPTION: ["x"],
            layout.TRACK_ID: "a",
            layout.LOUDNESS_LUFS: None,
        }


def test_shards_end_at_their_size_and_hold_all_rows_in_order(tmp_path):
    shards = ParquetWriter(tmp_path, "train", layout.arrow_schema(), 2**20).write(rows_of(750, 4096))
    assert [shard.name for shard in shards] == [f"train-{index:05d}.parquet" for index in range(3)]
    assert [shard.slices for shard in shards] == [300, 300, 150]
    tables = [pq.read_table(tmp_path / shard.name) for shard in shards]
    assert [start for table in tables for start in table["start_s"].to_pylist()] == list(range(750))
    assert all(shard.bytes == (tmp_path / shard.name).stat().st_size for shard in shards)
    assert shards[0].sha256 == hashlib.sha256((tmp_path / shards[0].name).read_bytes()).hexdigest()
    metadata = pq.read_metadata(tmp_path / shards[0].name)
    assert all(metadata.row_group(index).num_rows <= ROWS_PER_GROUP for index in range(metadata.num_row_groups))


def test_the_fingerprint_follows_the_content(tmp_path):
    writer = ParquetWriter(tmp_path, "train", layout.arrow_schema(), 2**20)
    first, again, other = (fingerprint(writer.write(rows_of(count, 64))) for count in (5, 5, 6))
    assert first == again != other


def test_an_error_half_way_leaves_no_shard(tmp_path):
    def failing():
        yield from rows_of(150, 64)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        ParquetWriter(tmp_path, "train", layout.arrow_schema(), 2**20).write(failing())
    assert list(tmp_path.iterdir()) == []
