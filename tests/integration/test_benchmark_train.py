import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main


def test_the_training_benchmark_measures_both_sides_with_and_without_caches(tmp_path: Path) -> None:
    assert main(["train", "--quick", "clips=8", f"out={tmp_path}"]) == 0
    rows = {row["what"]: row for row in json.loads((tmp_path / "train.json").read_text())["rows"]}
    assert {what: row["target"] for what, row in rows.items() if row["target"]} == {
        "training, caches on: speed": "ours / reference >= 1.4",
        "training, caches on: peak memory": "ours / reference <= 1",
        "training, caches off: speed": "ours / reference >= 1.05",
        "training, caches off: peak memory": "ours / reference <= 1",
    }
    # SD 1.5's own share is 1.130 TFLOP over 2.407.
    assert rows["VAE and text encoder over the UNet's forward and backward"]["ours"] == pytest.approx(0.47, abs=0.03)
    assert rows["training, caches on: speed"]["ratio"] > 1
    true_size = "SD 1.5's true size, a pass of one image, {}: {}"
    for caches in ("on", "off"):  # a pass of this size is over too soon to compare
        assert rows[true_size.format(f"caches {caches}", "speed")]["reference"] > 0
        assert rows[true_size.format(f"caches {caches}", "peak memory")]["ratio"] > 0


def test_the_benchmark_of_cached_dtypes_finds_rounding_smaller_than_another_seed(tmp_path: Path) -> None:
    assert main(["cache_dtype", "--quick", f"out={tmp_path}"]) == 0
    difference, losses = json.loads((tmp_path / "cache_dtype.json").read_text())["rows"]
    assert 0 < difference["ours"] < difference["reference"]
    assert losses["ratio"] == pytest.approx(1, abs=0.05)


def test_the_loading_benchmark_measures_waiting_and_memory(tmp_path: Path) -> None:
    assert main(["loading", "--quick", f"out={tmp_path}"]) == 0
    waiting, memory = json.loads((tmp_path / "loading.json").read_text())["rows"]
    assert 0 <= waiting["ours"] < 100
    assert memory["what"] == "peak memory after reading 200 slices, against 20"
    assert memory["ratio"] > 0.5
