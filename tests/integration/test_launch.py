import json
import os
import shutil
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


@pytest.mark.parametrize("script", ["train.sbatch", "elastic.sh"])
def test_the_scripts_are_valid_bash(script: str) -> None:
    assert subprocess.run(["bash", "-n", str(LAUNCH / script)], check=False).returncode == 0


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    scripts = [str(LAUNCH / name) for name in ("train.sbatch", "elastic.sh")]
    done = subprocess.run(["shellcheck", "--shell=bash", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_an_elastic_start_takes_no_number_of_processes_that_changes_the_steps() -> None:
    for processes, world_size, message in (("4", "3", "cannot be shared out among 3"), ("4", "2", "give run=DIR")):
        words = ["dataset=d", *(["run=r"] if world_size == "3" else [])]
        done = subprocess.run(
            ["bash", str(LAUNCH / "elastic.sh"), processes, *words],
            env={**os.environ, "WORLD_SIZE": world_size},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert message in done.stderr


SRUN = """
shift  # its option
tasks=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=0 "$@" &
  tasks+=($!)
done
trap 'kill -TERM "${tasks[@]}"' TERM
highest=0
for task in "${tasks[@]}"; do
  while kill -0 "$task" 2>/dev/null; do
    wait "$task"
    status=$?
  done
  ((status > highest)) && highest=$status
done
exit "$highest"
"""
"""As Slurm's: starts the tasks of a job, here one on each of its nodes, and passes SIGTERM on."""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a Slurm job of two nodes with a task each, and an `scontrol` that logs its arguments."""
    programs = tmp_path / "bin"
    programs.mkdir()
    scripts = {
        "srun": SRUN,
        "scontrol": f'echo "$@" >> {tmp_path}/scontrol.log; echo localhost; echo other',
        "python": f'exec {sys.executable} "$@"',
    }
    for name, body in scripts.items():
        script = programs / name
        script.write_text(f"#!/bin/bash\n{body}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    job = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "localhost,other", "SLURM_NTASKS": "2"}
    return {**os.environ, **job, "PATH": f"{programs}:{os.environ['PATH']}"}


@pytest.mark.two_ranks
def test_a_slurm_job_at_its_time_limit_saves_and_is_requeued(tmp_path: Path, slurm: dict[str, str]) -> None:
    run = tmp_path / "run"
    words = ["max_train_steps=100000", "schedule=constant", "train_batch_size=2"]
    arguments = train_arguments(write_dataset(tmp_path / "dataset"), run, *words)
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
    assert saved["global_batch_size"] == 4
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
