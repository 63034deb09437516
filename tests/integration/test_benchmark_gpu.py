import json
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as everything
from benchmarks.gpu import train_laptop, train_sd15


def rows_of(path: Path) -> dict[str, dict[str, object]]:
    return {row["what"]: row for row in json.loads(path.read_text())["rows"]}


def test_the_script_for_a_gpu_runs_end_to_end_on_any_machine(tmp_path: Path) -> None:
    assert everything.main(["--quick", f"out={tmp_path}"]) == 0
    assert all(row["ours"] > 0 for row in rows_of(tmp_path / "gpu.json").values())
    rows = rows_of(tmp_path / "train_sd15.json")
    for what in ("speed", "work", "peak memory"):
        assert {name for name in rows if name.endswith(f": {what}")} == {
            f"{case.what}: {what}" for case in train_sd15.QUICK_CASES
        }
    assert all(row["ours"] > 0 for row in rows.values())
    rows = rows_of(tmp_path / "codec_gpu.json")
    assert list(rows)[:2] == ["hifi: encode", "hifi: decode by pghi"]
    assert all(row["ours"] > 0 for row in rows.values())


def test_no_case_begins_when_the_time_is_used_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_sd15.main(["--quick", f"out={tmp_path}", "minutes=1e-9"]) == 0
    assert capsys.readouterr().out.count("left out, the time is used up") == len(train_sd15.QUICK_CASES)
    assert not (tmp_path / "train_sd15.json").exists()


@pytest.mark.slow
def test_the_training_of_laptop_runs_from_nothing_to_a_model(tmp_path: Path) -> None:
    assert train_laptop.main(["--quick", f"out={tmp_path}"]) == 0
    rows = rows_of(tmp_path / "train_laptop.json")
    assert rows["training of laptop: images"]["ours"] == 4
    assert (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert (tmp_path / "metrics.jsonl").is_file()


def test_without_a_gpu_it_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    if everything.torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for program in (everything, train_sd15):
        assert program.main([]) == 2
        assert "this needs a GPU; --quick out=DIR shows" in capsys.readouterr().err
