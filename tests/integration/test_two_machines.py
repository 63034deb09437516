"""torchrun and Ray over two machines with a network of their own, of which one is lost."""

import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.corpus_files import write_tones
from support.machines import Machine, two_machines
from support.nano import train_arguments, train_config, write_dataset
from support.stores import s3_server, second_s3_server

from data_prep.pipeline import prepare
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.runtime.hub import Store
from riffusion_train.training.run import run_training

pytestmark = pytest.mark.real_time  # Ray and torchrun give up machines that are late

ROOT = Path(__file__).parents[2]
WORDS = [
    "max_train_steps=12",
    "checkpointing_steps=2",
    "checkpoints_total_limit=2",
    "optimizer.eps=1e-4",
    "rank_timeout_s=4",
]


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as both:
        yield both


def launch(machine: Machine, host: Machine, arguments: list[str], log: Path) -> Any:
    """Start torchrun on a machine, as docs/scale.md has it; the host is where the machines meet."""
    settings = "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=2"
    settings += f",is_host={int(machine is host)}"  # as its own name does not lead to its address in a namespace
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3",
        "--rdzv-backend=c10d", f"--rdzv-endpoint={host.address}:29400", "--rdzv-id=test", f"--local-addr={machine.address}",
        f"--rdzv-conf={settings}", "--monitor-interval=0.2",
        "--no-python", str(ROOT / "launch" / "elastic.sh"), "2", *arguments,
    ]  # fmt: skip
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    libraries = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return machine.start(command, log, {"PATH": path, "PYTHONPATH": libraries, "OMP_NUM_THREADS": "1"})


def wait_for(path: Path, process: Any, log: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.two_ranks
def test_a_run_that_loses_a_machine_goes_on_with_the_other_to_the_weights_of_an_undisturbed_one(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    first, second = machines
    dataset, run = write_dataset(tmp_path / "dataset"), tmp_path / "run"
    arguments = [*train_arguments(dataset, run, *WORDS), "train_batch_size=2"]
    stays = launch(first, first, arguments, tmp_path / "first")
    launch(second, first, arguments, tmp_path / "second")
    wait_for(run / "checkpoints" / "step-000004", stays, tmp_path / "first")
    second.power_off()
    assert stays.wait(300) == 0, (tmp_path / "first").read_text()[-3000:]

    starts = [json.loads(line) for line in (run / "overrides.jsonl").read_text().splitlines()]
    assert len(starts) == 2
    assert json.loads((run / "manifest.json").read_text())["world_size"] == 2  # as it began
    alone = run_training(train_config(dataset, tmp_path / "alone", *WORDS), [])
    ours = load_file(run / "final" / "unet" / "diffusion_pytorch_model.safetensors")
    theirs = load_file(alone / "final" / "unet" / "diffusion_pytorch_model.safetensors")
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, atol=1e-5), name


RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "200",
    "RAY_health_check_initial_delay_ms": "10000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "2",
    # By default a connection that nobody closes is given up after seven minutes.
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
}


def ray(machine: Machine, log: Path, *arguments: str, hidden: Path | None = None) -> Any:
    """Start `ray start` on a machine, which ends when its processes run."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        **RAY,
    }
    options = ["--num-cpus=1", f"--node-ip-address={machine.address}", "--object-store-memory=80000000"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options, *arguments, "--disable-usage-stats"]
    return machine.start(command, log, environment, hidden=hidden)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name leaves space for those of sockets, of which there are 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def bucket(machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a bucket that both machines and this process reach."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()  # clients of servers that have ended
    first = machines[0]
    with s3_server(monkeypatch):
        with first.inside():
            server = second_s3_server(first.address)
        name = f"shared-{secrets.token_hex(4)}"
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
        yield f"s3://{name}"
        server.stop()


@pytest.mark.slow
def test_two_machines_that_share_nothing_but_a_store_prepare_and_one_is_lost(
    short_folder: Path, machines: tuple[Machine, Machine], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sees an empty folder where the other one has its files; the audio is in the store as well."""
    pytest.importorskip("ray")
    first, second = machines
    audio, out = f"{bucket}/songs", f"{bucket}/out"
    store = Store(out)
    assert not store.names(), "its client is made with the address of this process"
    songs = Store(audio)
    for path in sorted(write_tones(tmp_path / "songs", 16).iterdir()):
        songs.write(path.name, path.read_bytes())
    words = [f"audio={audio}", "spectrogram=small", "page=false"]
    alone = prepare(compose("prepare", PrepareConfig, [*words, f"out={tmp_path / 'out'}", "num_workers=0"]))

    own = tmp_path / "own"
    own.mkdir()
    inside = {"AWS_ENDPOINT_URL": f"http://{first.address}:5000", "TMPDIR": str(own)}
    for key, value in inside.items():
        monkeypatch.setenv(key, value)
    head = ["--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={short_folder}"]
    assert ray(first, tmp_path / "head", *head, hidden=own).wait(400) == 0, (tmp_path / "head").read_text()[-3000:]
    address = f"{first.address}:6379"
    joined = ray(second, tmp_path / "joined", f"--address={address}", hidden=own)
    assert joined.wait(400) == 0, (tmp_path / "joined").read_text()[-3000:]
    command = [sys.executable, "-m", "riffusion_train", "prepare", *words, f"out={out}"]
    command += ["engine=ray", f"ray_address={address}"]
    libraries = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    prepared = first.start(command, tmp_path / "log", {**RAY, "PYTHONPATH": libraries}, hidden=own)
    deadline = time.monotonic() + 300
    while sum(name.endswith(".arrow") for name in store.names(".work/tracks")) < 4:
        assert prepared.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.05)
    second.power_off()
    assert prepared.wait(300) == 0, (tmp_path / "log").read_text()[-3000:]
    stored = {name: store.read(name) for name in store.names()}
    assert not list(own.iterdir())
    assert without_card(stored) == without_card(files_of(alone.path))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_card(files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out the card, which holds the command."""
    assert files.pop("README.md")
    return files
