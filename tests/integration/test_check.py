import json
import re
from pathlib import Path

import pytest
from support.nano import train_arguments, write_dataset

from riffusion_train.cli.main import main
from riffusion_train.dataset.cache import CACHE_DIR


def test_a_check_tells_what_a_run_needs_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    words = train_arguments(dataset, tmp_path / "runs" / "mine", "max_train_steps=300", "preview.every_steps=1")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert main(["train", *words, "check=true"]) == 0
    said = capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert "12 slices, seen 100 times in 300 steps of 4" in said
    assert re.search(r"two steps +loss \d+\.\d+; .* s a step, .* images/s, .* s of audio/s", said)
    assert re.search(r"memory +\d+\.\d GiB at most in one process", said)
    assert re.search(r"checkpoint +\S+ GiB, saved in \S+ s, loaded in \S+ s; 2 kept and one being written need", said)
    assert re.search(r"estimate +\d+:\d\d:\d\d to finish: latents \d+:\d\d:\d\d, captions \d+:\d\d:\d\d, steps", said)
    assert re.search(r"caches +\S+ GiB of latents and \S+ GiB of hidden states in \S+, where \S+ GiB are free", said)
    assert not (dataset / CACHE_DIR).exists()


def test_a_run_of_one_step_can_be_checked(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    assert main(["train", *train_arguments(dataset, tmp_path / "run", "max_train_steps=1"), "check=true"]) == 0


def test_a_check_refuses_what_the_run_would_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    run = tmp_path / "run"
    run.mkdir()
    (run / "letter.txt").write_text("dear")
    assert main(["train", *train_arguments(dataset, run, "check=true")]) == 2
    assert "the folder holds files that are not a run" in capsys.readouterr().err


def test_a_run_reports_its_speed_as_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    assert main(["train", *train_arguments(dataset, tmp_path / "run", "max_train_steps=3")]) == 0
    shown = capsys.readouterr().err
    assert re.search(r"images/s, \S+ s of audio/s, data wait \S+ %, \S+ GiB", shown)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["images_per_s"] * line["step_s"] == pytest.approx(4)
        assert line["tflops_per_s"] > 0
        assert line["mfu_percent"] is None  # nobody knows the peak of this CPU
        assert 0 <= line["data_wait_percent"] <= 100
        assert line["peak_memory_gib"] > 0.1
