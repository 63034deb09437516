import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.nano import train_arguments, train_config, write_dataset

from riffusion_train.runtime.errors import InputError
from riffusion_train.training.run import run_training

LAUNCH = Path(__file__).parents[2] / "launch"
SBATCH = LAUNCH / "train.sbatch"


def accelerate_config(name: str):  # type: ignore[no-untyped-def]
    from accelerate.commands.config.config_args import load_config_from_file

    return load_config_from_file(str(LAUNCH / name))


@pytest.mark.parametrize(
    ("name", "kind", "processes"),
    [("one_gpu", "NO", 1), ("multi_gpu", "MULTI_GPU", 8), ("fsdp", "FSDP", 8), ("multi_node", "MULTI_GPU", 16)],
)
def test_accelerate_reads_every_launch_file(name: str, kind: str, processes: int) -> None:
    config = accelerate_config(f"{name}.yaml")
    assert (config.distributed_type.value, config.num_processes) == (kind, processes)
    assert config.mixed_precision == "no"
    assert not config.use_cpu


def test_every_launch_file_is_tested() -> None:
    assert {path.stem for path in LAUNCH.glob("*.yaml")} == {"one_gpu", "multi_gpu", "multi_node", "fsdp"}


def test_the_slurm_script_is_valid_bash() -> None:
    assert subprocess.run(["bash", "-n", str(SBATCH)], check=False).returncode == 0


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a Slurm job of one task, with an `srun` that runs it and an `scontrol` that logs its arguments."""
    programs = tmp_path / "bin"
    programs.mkdir()
    scripts = {
        "srun": 'shift; export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1; exec "$@"',
        "scontrol": f'echo "$@" >> {tmp_path}/scontrol.log; echo localhost',
        "python": f'exec {sys.executable} "$@"',
    }
    for name, body in scripts.items():
        script = programs / name
        script.write_text(f"#!/bin/bash\n{body}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    job = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "localhost"}
    return {**os.environ, **job, "PATH": f"{programs}:{os.environ['PATH']}"}


def test_a_slurm_job_at_its_time_limit_saves_and_is_requeued(tmp_path: Path, slurm: dict[str, str]) -> None:
    run = tmp_path / "run"
    arguments = train_arguments(write_dataset(tmp_path / "dataset"), run, "max_train_steps=100000", "schedule=constant")
    job = subprocess.Popen(["bash", str(SBATCH), *arguments], env=slurm)
    metrics = run / "metrics.jsonl"
    for _ in range(2400):
        if metrics.is_file() and metrics.read_text():
            break
        assert job.poll() is None
        time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=240) == 0
    assert "requeue 77" in (tmp_path / "scontrol.log").read_text()
    saved = json.loads(next((run / "checkpoints").glob("step-*/state.json")).read_text())
    assert saved["step"] == json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert not (run / "final").exists()


def test_a_slurm_job_without_a_run_folder_is_refused(slurm: dict[str, str]) -> None:
    done = subprocess.run(["bash", str(SBATCH), "dataset=d"], env=slurm, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "give run=DIR" in done.stderr


def test_a_launch_with_deepspeed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(InputError, match=r"DeepSpeed is not supported, .*; take launch/fsdp\.yaml"):
        run_training(train_config(write_dataset(tmp_path / "dataset"), tmp_path / "run"), [])
    assert not (tmp_path / "run").exists()
