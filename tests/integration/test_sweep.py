import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from support.nano import train_arguments, write_dataset

from riffusion_train.cli.main import main
from riffusion_train.cli.train import STUDY_FILE, Ranking, plan, submit
from riffusion_train.runtime.errors import InputError


def test_each_run_has_a_folder_of_its_own_in_the_mirror() -> None:
    jobs = plan(["seed=0,1", "mirror=s3://bucket/runs/", "run=sweep"])[1]
    assert [job[1:] for job in jobs] == [
        [f"mirror=s3://bucket/runs/{own}", f"run=sweep/{own}"] for own in ("000", "001")
    ]


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


def test_glob_chooses_presets() -> None:
    assert [job[0] for job in plan(["experiment=glob(sd15_lora*)"])[1]] == [
        "experiment=sd15_lora_12gb", "experiment=sd15_lora_8gb",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"'schedule=glob\(x\*\)' fits no preset; choose from: constant, cosine"):
        plan(["schedule=glob(x*)", "seed=0,1"])
    with pytest.raises(InputError, match="seed= has none"):
        plan(["seed=glob(x*)"])


def test_own_presets_are_swept_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "own.yaml").write_text("lr: 0.25\n")
    sweep = ["train", "-m", "dataset=d", f"run={tmp_path / 's'}", "optimizer=glob(ow*)", "seed=1,2"]
    assert main([*sweep, "--config-dir", str(tmp_path), "--cfg", "job"]) == 0
    assert capsys.readouterr().out.count("lr: 0.25") == 2
    assert not (tmp_path / "s").exists()


def test_an_interval_needs_a_search() -> None:
    with pytest.raises(InputError, match="an interval has no values to try one by one; add --sweeper optuna"):
        plan(["optimizer.lr=interval(1e-5,1e-3)", "seed=0,1"])


def test_a_variable_that_is_not_set_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", "dataset=d", "seed=0,1", "optimizer.lr=${oc.env:UNSET_LR}"]) == 2
    message = capsys.readouterr().err
    assert message == "riffusion train: optimizer.lr: Environment variable 'UNSET_LR' not found\n"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("swept") / "dataset")


def test_a_sweep_whose_runs_are_all_refused_leaves_nothing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("riffusion_train.cli.train.SweepJob.__call__", lambda self: 2)
    assert main(["train", "-m", f"dataset={dataset}", f"run={tmp_path / 'deep' / 's'}", "seed=0,1"]) == 2
    assert "2 of 2 runs failed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_best_run_is_the_one_with_the_lowest_last_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [["lr=1", "dataset=d", f"run={tmp_path / name}"] for name in ("000", "001", "002")]
    jobs[1][0] = "lr=2"
    for name, values in {"000": [1, 5], "001": [9, 4, math.nan], "002": []}.items():
        (tmp_path / name).mkdir()
        lines = [json.dumps({"step": 1, "loss": 0}), "damaged", *(json.dumps({"score": value}) for value in values)]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(lines))
    Ranking("score", maximize=False).write(tmp_path, jobs)
    assert capsys.readouterr().out == f"best: {tmp_path / '001'} (score 4): lr=2\n"
    assert [row["score"] for row in json.loads((tmp_path / "results.json").read_text())] == [5, 4, None]
    Ranking("score", maximize=True).write(tmp_path, jobs)
    assert f"best: {tmp_path / '000'} (score 5)" in capsys.readouterr().out
    Ranking("other", maximize=False).write(tmp_path, jobs)
    assert "no run has other, so none is named the best" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is an extra")
def test_optuna_searches_an_interval_and_goes_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[float] = []

    def train(job: Any) -> int:
        values = dict(argument.split("=", 1) for argument in job.arguments)
        tried.append(float(values["optimizer.lr"]))
        if len(tried) == 3:
            return 3
        Path(values["run"]).mkdir()
        loss = {"validation_loss": abs(float(values["optimizer.lr"]) - 3e-4), "resume": values.get("resume")}
        (Path(values["run"]) / "metrics.jsonl").write_text(json.dumps(loss))
        return 0

    monkeypatch.setattr("riffusion_train.cli.train.SweepJob.__call__", train)
    arguments = ["train", "-m", "--sweeper", "optuna", "--trials", "5", "dataset=d", f"run={tmp_path / 's'}"]
    space = ["optimizer.lr=tag(log, interval(1e-5,1e-3))", "seed=interval(1,3)", "schedule=constant,cosine"]
    assert main([*arguments, *space, "validation=none"]) == 2
    assert "validation_loss is never measured; set validation.every_steps" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    arguments.append("validation.every_steps=1")
    assert main([*arguments, *space]) == 3
    assert main([*arguments, *space]) == 2
    assert "holds a sweep; resume=auto goes on with it" in capsys.readouterr().err
    assert main([*arguments, *space, "resume=auto"]) == 0
    assert len(tried) == 6 and tried[2] == tried[3] and all(1e-5 <= lr <= 1e-3 for lr in tried)
    results = json.loads((tmp_path / "s" / "results.json").read_text())
    best = min(results, key=lambda row: row["validation_loss"])
    assert len(results) == 5 and (tmp_path / "s" / STUDY_FILE).is_file()
    assert f"best: {best['run']} (" in capsys.readouterr().out


def test_optuna_that_is_not_installed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["train", "-m", "--sweeper", "optuna", "dataset=d", f"run={tmp_path / 's'}", "seed=0,1"]) == 2
    assert "pip install 'riffusion-train[optuna]'" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is an extra")
@pytest.mark.parametrize(
    ("option", "complaint"),
    [("cluster=moon", "any executor named moon"), ("gpus=1", "gpus"), ("gpus_per_node", "give KEY=VALUE")],
)
def test_a_parameter_that_submitit_does_not_take_is_one_line(
    dataset: Path, tmp_path: Path, option: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["train", "-m", "--launcher", "submitit", "--submitit", option, f"run={tmp_path / 's'}"]
    assert main([*sweep, f"dataset={dataset}", "seed=0,1"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and complaint in message
    assert not list(tmp_path.iterdir())


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


def test_a_sweep_trains_each_run_in_a_process_of_its_own_and_names_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = train_arguments(
        write_dataset(tmp_path / "dataset"), tmp_path / "sweep", "max_train_steps=1", "validation.every_steps=1"
    )
    assert main(["train", "--multirun", *words, "seed=3,4"]) == 0
    seeds = [json.loads((tmp_path / "sweep" / name / "manifest.json").read_text())["seed"] for name in ("000", "001")]
    assert seeds == [3, 4]
    assert all((tmp_path / "sweep" / name / "final").is_dir() for name in ("000", "001"))
    assert len(json.loads((tmp_path / "sweep" / "sweep.json").read_text())) == 2
    results = json.loads((tmp_path / "sweep" / "results.json").read_text())
    best = min(results, key=lambda row: row["validation_loss"])
    assert f"best: {best['run']} (validation_loss {best['validation_loss']:.6g}): seed=" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is an extra")
def test_submitit_runs_a_job_and_knows_how_to_queue_it_again(tmp_path: Path) -> None:
    words = train_arguments(write_dataset(tmp_path / "dataset"), tmp_path / "run", "max_train_steps=1")
    jobs = submit([words], tmp_path, ["timeout_min=5", "cluster=local"])
    assert jobs[0].result() == 0
    assert (tmp_path / "run" / "final").is_dir()


def test_submitit_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match="pip install submitit"):
        submit([["seed=0"]], tmp_path, [])
