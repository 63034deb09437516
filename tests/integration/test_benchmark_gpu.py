import json
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.train_sd15 import CASES


def test_the_gpu_benchmark_runs_end_to_end_on_any_machine(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.train_sd15", "--quick", f"out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {row["what"]: row for row in json.loads((tmp_path / "train_sd15.json").read_text())["rows"]}
    for what in ("speed", "work", "peak memory"):
        assert {name for name in rows if name.endswith(f": {what}")} == {f"{case.what}: {what}" for case in CASES}
    assert all(row["ours"] > 0 for row in rows.values())


def test_the_codecs_gpu_benchmark_runs_end_to_end_on_any_machine(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.codec", "--quick", f"out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "codec_gpu.json").read_text())["rows"]
    assert [row["what"] for row in rows][:2] == ["hifi: encode", "hifi: decode by pghi"]
    assert all(row["ours"] > 0 for row in rows)
