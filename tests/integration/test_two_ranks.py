import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.nano import train_arguments, train_config, write_dataset
from support.processes import free_port, rank_environment, run_ranks, start_process

from riffusion_train.cli.main import main
from riffusion_train.runtime.errors import EXIT_FAULT
from riffusion_train.training.run import run_training
from riffusion_train.training.run_folder import Checkpoints

WORDS = ["max_train_steps=6", "method.train_text_encoder=true", "validation.every_steps=3"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def alone(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    return run_training(train_config(dataset, run, *WORDS), [])


def losses(run: Path, key: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


@pytest.mark.two_ranks
def test_two_processes_that_accelerate_starts_train_the_run_of_one(dataset: Path, alone: Path, tmp_path: Path) -> None:
    """`--multi_gpu` starts one process a rank, with or without GPUs; `--cpu` would start one in all."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", str(free_port()), "-m", "riffusion_train", "train"]
    command += [*train_arguments(dataset, tmp_path / "run", *WORDS), "train_batch_size=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trained: ") == 1
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.two_ranks
def test_two_processes_that_are_not_told_the_folder_agree_on_one(
    dataset: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*train_arguments(dataset, tmp_path / "run", *WORDS), "train_batch_size=2"]
    words = [word for word in words if not word.startswith("run=")]
    monkeypatch.chdir(tmp_path)
    said = run_ranks(lambda: main(["train", *words]), tmp_path / "log")
    (run,) = (tmp_path / "runs").iterdir()
    assert "".join(said).count("trained: ") == 1
    assert_same_run(run, alone)


def assert_same_run(run: Path, alone: Path) -> None:
    assert json.loads((run / "manifest.json").read_text())["world_size"] == 2
    assert losses(run) == pytest.approx(losses(alone), rel=1e-3)
    assert losses(run, "validation_loss") == pytest.approx(losses(alone, "validation_loss"), rel=1e-3)
    assert len(losses(run, "validation_loss")) == 2  # three held-out slices, an odd number for two ranks
    ours = load_file(run / "final" / "unet" / "diffusion_pytorch_model.safetensors")
    theirs = load_file(alone / "final" / "unet" / "diffusion_pytorch_model.safetensors")
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, atol=2e-3), name


def start_ranks(arguments: list[str], log: Path, **environment: str) -> list[Any]:
    """Start two ranks that train without a launcher's watch over them; their output goes to `log-0` and `log-1`."""
    return [
        start_process(
            lambda: main(["train", *arguments]),
            log.with_name(f"{log.name}-{rank}"),
            rank_environment(rank, 2, port) | environment,
        )
        for port in [free_port()]
        for rank in range(2)
    ]


def wait_for_steps(run: Path) -> None:
    deadline = time.monotonic() + 120
    while not ((run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").read_text()):
        assert time.monotonic() < deadline, "no step in two minutes"
        time.sleep(0.05)


@pytest.mark.two_ranks
def test_a_rank_that_stops_answering_ends_the_run_with_a_line_that_names_it(dataset: Path, tmp_path: Path) -> None:
    """It is the first, which also hosts the store that the signs of life go through."""
    run = tmp_path / "run"
    words = ["max_train_steps=100000", "rank_timeout_s=4", "checkpointing_steps=5"]
    ranks = start_ranks(train_arguments(dataset, run, *words), tmp_path / "log")
    try:
        wait_for_steps(run)
        os.kill(ranks[0].pid, signal.SIGSTOP)
        ranks[1].join(120)
        assert ranks[1].exitcode == EXIT_FAULT
        assert ranks[0].is_alive()
    finally:
        for rank in ranks:
            rank.kill()
    last = (tmp_path / "log-1").read_text().strip().splitlines()[-1]
    assert last.startswith(f"riffusion train: rank 0 (process {ranks[0].pid} on ")
    assert "has not answered for 4 s" in last
    Checkpoints(run / "checkpoints", total_limit=2).load_newest()


@pytest.mark.two_ranks
def test_ranks_whose_launcher_is_killed_save_and_stop(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = train_arguments(dataset, run, "max_train_steps=100000", "rank_timeout_s=20")

    def launch() -> None:
        ranks = start_ranks(arguments, tmp_path / "log", TORCHELASTIC_RUN_ID="test")
        (tmp_path / "pids").write_text(" ".join(str(rank.pid) for rank in ranks))
        time.sleep(300)

    launcher = start_process(launch, tmp_path / "launcher", {})
    wait_for_steps(run)
    launcher.kill()
    launcher.join()
    deadline = time.monotonic() + 120
    for pid in (tmp_path / "pids").read_text().split():
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline, "a rank outlived its launcher"
            time.sleep(0.05)
    logs = [(tmp_path / f"log-{rank}").read_text() for rank in range(2)]
    assert any("the launcher is gone; stopping" in log for log in logs)  # whoever sees it first stops both
    assert all("the same command with resume=auto continues" in log for log in logs)
    state, damaged = Checkpoints(run / "checkpoints", total_limit=2).load_newest()
    assert state is not None
    assert not damaged
