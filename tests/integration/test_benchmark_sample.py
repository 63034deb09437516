import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_sampling_benchmark_measures_a_clip_and_a_walk(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks", "sample", "--quick", f"out={tmp_path}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "sample.json").read_text())["rows"]
    assert [row["target"] for row in rows] == ["ours / reference <= 0.7", "ours / reference >= 1.3"]
    assert all(row["ours"] > 0 and row["reference"] > 0 for row in rows)
