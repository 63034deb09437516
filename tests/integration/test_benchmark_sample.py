import json
from pathlib import Path

from benchmarks.__main__ import main


def test_the_sampling_benchmark_measures_a_clip_and_a_walk(tmp_path: Path) -> None:
    assert main(["sample", "--quick", f"out={tmp_path}"]) == 0
    rows = json.loads((tmp_path / "sample.json").read_text())["rows"]
    assert [row["target"] for row in rows] == ["ours / reference <= 0.7", "ours / reference >= 1.3"]
    assert all(row["ours"] > 0 and row["reference"] > 0 for row in rows)
