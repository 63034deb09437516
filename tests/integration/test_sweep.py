import importlib.util
import json
from pathlib import Path

import pytest
from support.worlds import train_words, write_dataset

from riffusion_train.cli.main import main
from riffusion_train.cli.train import plan, submit
from riffusion_train.runtime.errors import InputError


def test_every_combination_becomes_a_run_with_a_folder_of_its_own() -> None:
    words = ["dataset=a, b", "optimizer.lr=1e-4,1e-5", "seed=0,1", "preview.prompts=[x,y]", "run=sweep"]
    folder, jobs = plan(words)
    assert folder == Path("sweep")
    assert [job[1:3] for job in jobs] == [
        ["optimizer.lr=0.0001", "seed=0"], ["optimizer.lr=0.0001", "seed=1"],
        ["optimizer.lr=1e-05", "seed=0"], ["optimizer.lr=1e-05", "seed=1"],
    ]  # fmt: skip
    assert all(job[0] == "dataset=a, b" and job[3] == "preview.prompts=[x,y]" for job in jobs)
    assert [job[-1] for job in jobs] == [f"run=sweep/{number:03d}" for number in range(4)]


def test_a_range_is_a_sweep_too() -> None:
    assert [job[0] for job in plan(["seed=range(0,3)"])[1]] == ["seed=0", "seed=1", "seed=2"]


def test_nothing_to_sweep_is_refused() -> None:
    with pytest.raises(InputError, match="at least one key=a,b"):
        plan(["seed=0"])


def test_a_sweep_inside_a_distributed_launch_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "--multirun", "dataset=d", "seed=0,1"]) == 2
    assert "--multirun cannot run inside a distributed launch" in capsys.readouterr().err


def test_a_wrong_word_stops_the_sweep_before_its_first_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", "dataset=d", f"run={tmp_path / 's'}", "seed=0,1", "optimizer.lrr=1"]) == 2
    assert "unknown key 'optimizer.lrr'" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_sweep_trains_each_run_in_a_process_of_its_own(tmp_path: Path) -> None:
    words = train_words(write_dataset(tmp_path / "dataset"), tmp_path / "sweep", "max_train_steps=1")
    assert main(["train", "--multirun", *words, "seed=3,4"]) == 0
    seeds = [json.loads((tmp_path / "sweep" / name / "manifest.json").read_text())["seed"] for name in ("000", "001")]
    assert seeds == [3, 4]
    assert all((tmp_path / "sweep" / name / "final").is_dir() for name in ("000", "001"))
    assert len(json.loads((tmp_path / "sweep" / "sweep.json").read_text())) == 2


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is an extra")
def test_submitit_runs_a_job_and_knows_how_to_queue_it_again(tmp_path: Path) -> None:
    words = train_words(write_dataset(tmp_path / "dataset"), tmp_path / "run", "max_train_steps=1")
    jobs = submit([words], tmp_path, ["timeout_min=5"])
    assert jobs[0].result() == 0
    assert (tmp_path / "run" / "final").is_dir()


def test_submitit_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    with pytest.raises(InputError, match="pip install submitit"):
        submit([["seed=0"]], tmp_path, [])
