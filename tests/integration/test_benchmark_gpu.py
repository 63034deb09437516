import json
from pathlib import Path

from benchmarks.gpu import codec, train_sd15


def test_the_gpu_benchmark_of_training_runs_end_to_end_on_any_machine(tmp_path: Path) -> None:
    assert train_sd15.main(["--quick", f"out={tmp_path}"]) == 0
    rows = {row["what"]: row for row in json.loads((tmp_path / "train_sd15.json").read_text())["rows"]}
    for what in ("speed", "work", "peak memory"):
        assert {name for name in rows if name.endswith(f": {what}")} == {
            f"{case.what}: {what}" for case in train_sd15.QUICK_CASES
        }
    assert all(row["ours"] > 0 for row in rows.values())


def test_the_gpu_benchmark_of_the_codec_runs_end_to_end_on_any_machine(tmp_path: Path) -> None:
    assert codec.main(["--quick", f"out={tmp_path}"]) == 0
    rows = json.loads((tmp_path / "codec_gpu.json").read_text())["rows"]
    assert [row["what"] for row in rows][:2] == ["hifi: encode", "hifi: decode by pghi"]
    assert all(row["ours"] > 0 for row in rows)
