import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.nano import train_arguments, train_config, write_dataset

from riffusion_train.training.run import run_training

WORDS = ["max_train_steps=10", "method.train_text_encoder=true", "validation.every_steps=5"]
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611", "-m"],
    "accelerate": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "29612", "-m"),
    ],
}
"""Two ranks on this machine. `--multi_gpu` starts one process a rank, with or without GPUs; `--cpu` would start one in all."""


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
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_the_run_of_one(dataset: Path, alone: Path, tmp_path: Path, launcher: str) -> None:
    """Started by torchrun they are not told the folder of the run, and agree on one."""
    words = [*train_arguments(dataset, tmp_path / "run", *WORDS), "train_batch_size=2"]
    if launcher == "torchrun":
        words = [word for word in words if not word.startswith("run=")]
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "riffusion_train", "train", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (tmp_path / "runs").iterdir() if launcher == "torchrun" else [tmp_path / "run"]
    assert done.stdout.count("trained: ") == 1
    assert json.loads((run / "manifest.json").read_text())["world_size"] == 2
    assert losses(run) == pytest.approx(losses(alone), rel=1e-3)
    assert losses(run, "validation_loss") == pytest.approx(losses(alone, "validation_loss"), rel=1e-3)
    assert len(losses(run, "validation_loss")) == 2  # three held-out slices, an odd number for two ranks
    ours = load_file(run / "final" / "unet" / "diffusion_pytorch_model.safetensors")
    theirs = load_file(alone / "final" / "unet" / "diffusion_pytorch_model.safetensors")
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, atol=2e-3), name
