"""A run that is uploaded while it trains, on a machine that dies, and goes on from the store on another one."""

import contextlib
import json
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support.nano import train_arguments, train_config, write_dataset
from support.processes import run_ranks, start_command
from support.stores import s3_server

from riffusion_train.cli.main import main
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.hub import Lease, Store
from riffusion_train.training.mirror import LEASE_FILE, MIRROR_FILE, RunMirror
from riffusion_train.training.run import run_training
from riffusion_train.training.run_folder import RunFolder
from riffusion_train.training.trainer import Trainer

WORDS = [
    "max_train_steps=6",
    "checkpointing_steps=2",
    "method.train_text_encoder=true",
    "gradient_accumulation_steps=2",
]
RESUMED = [*WORDS, "resume=auto"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", num_train=11)


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that nobody stopped."""
    return run_training(train_config(dataset, tmp_path_factory.mktemp("whole") / "run", *WORDS), [])


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a checkpoint within half a second, also in the processes that are started, and not within five."""
    monkeypatch.setitem(RunMirror.__init__.__kwdefaults__, "look_s", 0.5)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket of a local S3 server."""
    fsspec = pytest.importorskip("s3fs") and pytest.importorskip("fsspec")
    with s3_server(monkeypatch):
        name = f"runs-{secrets.token_hex(4)}"  # servers of one process share their buckets
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
        yield f"s3://{name}"


def kill_at(
    step: int, arguments: list[str], url: str, log: Path, monkeypatch: pytest.MonkeyPatch, *, checkpoints: int = 1
) -> None:
    """Train until a step, on a machine that hangs there and dies once the store has the checkpoints before it."""
    update = Trainer._update

    def update_and_hang(trainer: Trainer) -> None:
        update(trainer)
        if trainer.step == step:
            time.sleep(600)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", update_and_hang)
        process = start_command(["train", *arguments], log)
    deadline = time.monotonic() + 240
    newest = step // 2 * 2
    needed = {f"checkpoints/step-{newest - 2 * before:06d}/state.json" for before in range(checkpoints)}
    try:
        while not needed <= whole_files(url).keys():
            assert process.is_alive(), log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
    finally:
        process.kill()
        process.join()


def whole_files(url: str) -> dict[str, int]:
    content = Store(url).find(MIRROR_FILE)
    return {} if content is None else json.loads(content)["files"]


def assert_same_run(run: Path, other: Path) -> None:
    for name in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        weights, others = load_file(run / "final" / name), load_file(other / "final" / name)
        assert weights.keys() == others.keys()
        assert not [key for key in weights if not weights[key].equal(others[key])]
    assert losses(run) == losses(other)


def losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def test_a_killed_run_goes_on_from_a_bucket_on_a_new_machine_bit_for_bit(
    dataset: Path,
    whole: Path,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    url = f"{bucket}/mine"
    words = train_arguments(dataset, tmp_path / "first" / "run", *RESUMED, f"mirror={url}")
    kill_at(5, words, url, tmp_path / "log", monkeypatch)
    other = tmp_path / "second" / "run"
    assert main(["train", *train_arguments(dataset, other, *RESUMED, f"mirror={url}")]) == 0
    assert "fetching step 4 of the run" in capfd.readouterr().err
    assert_same_run(other, whole)
    stored = Store(url).names()
    steps = {name.split("/")[1] for name in stored if name.startswith("checkpoints/")}
    assert steps == {"step-000004", "step-000006"}, "as many as are kept in the folder"
    assert stored == whole_files(url) | {MIRROR_FILE: stored[MIRROR_FILE]}
    assert stored.keys() >= {"config.yaml", "manifest.json", "metrics.jsonl", "final/model_index.json"}
    # A third machine finds that the run is finished, and has its model.
    third = tmp_path / "third" / "run"
    assert main(["train", *train_arguments(dataset, third, *RESUMED, f"mirror={url}")]) == 0
    assert_same_run(third, whole)


def test_a_machine_that_comes_back_takes_what_another_one_did_meanwhile(
    dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/store"
    first = train_arguments(dataset, tmp_path / "first", *RESUMED, f"mirror={url}")
    kill_at(3, first, url, tmp_path / "log", monkeypatch)
    kill_at(
        5, train_arguments(dataset, tmp_path / "second", *RESUMED, f"mirror={url}"), url, tmp_path / "log", monkeypatch
    )
    shutil.rmtree(tmp_path / "second")
    run_training(train_config(dataset, tmp_path / "first", *RESUMED, f"mirror={url}"), [])
    assert_same_run(tmp_path / "first", whole)


def test_what_is_half_uploaded_or_damaged_does_not_count(
    dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    kill_at(
        5,
        train_arguments(dataset, run, *RESUMED, f"mirror=file://{store}"),
        f"file://{store}",
        tmp_path / "log",
        monkeypatch,
        checkpoints=2,
    )
    checkpoints = store / "checkpoints"
    shutil.copytree(checkpoints / "step-000004", checkpoints / "step-000006")
    damaged = checkpoints / "step-000004" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    shutil.rmtree(run)
    run_training(train_config(dataset, run, *RESUMED, f"mirror=file://{store}"), [])
    said = capfd.readouterr().err
    assert "step 4 is damaged" in said
    assert "fetching step 2 of the run" in said
    assert "step 6" not in said
    assert_same_run(run, whole)


def test_a_store_with_a_run_is_not_written_over(dataset: Path, whole: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    run_training(train_config(dataset, tmp_path / "run", *WORDS, f"mirror={url}"), [])
    with pytest.raises(InputError, match="a run is there; continue it with resume=auto, or choose another address"):
        run_training(train_config(dataset, tmp_path / "new", *WORDS, f"mirror={url}"), [])
    assert not (tmp_path / "new").exists()
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    with pytest.raises(InputError, match=r"holds another run than .*other; choose another address"):
        run_training(train_config(dataset, other, *RESUMED, "max_train_steps=8", f"mirror={url}"), [])


def test_a_store_that_another_machine_uploads_to_is_refused(dataset: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    with contextlib.closing(Lease(url, LEASE_FILE, renew_s=0.1)) as lease:
        lease.take("mirror=")
        with pytest.raises(InputError, match=f"mirror={url}: process .* is writing there; wait until it has ended, or"):
            run_training(train_config(dataset, tmp_path / "run", *RESUMED, f"mirror={url}"), [])
    assert not (tmp_path / "run").exists()


def test_a_machine_whose_mirror_was_taken_over_uploads_nothing_more(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{tmp_path}/store"
    lease = Lease(url, LEASE_FILE)
    lease.lost_to = "process 7 of elsewhere"
    mirror = RunMirror(url, RunFolder(whole), 2, lease)
    mirror.start()
    assert mirror.finish(60)
    assert "process 7 of elsewhere uploads there now" in capfd.readouterr().err
    assert Store(url).names() == {}


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3://nobody/mine", "bucket does not exist; give the address of a folder in a bucket that exists"),
        ("foo://mine", "Protocol not known: foo"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_in_one_line_before_the_first_step(
    dataset: Path, bucket: str, tmp_path: Path, url: str, problem: str
) -> None:
    with pytest.raises(InputError, match=f"mirror={url}: .*{problem}") as refused:
        run_training(train_config(dataset, tmp_path / "run", *WORDS, f"mirror={url}"), [])
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_failing_store_is_warned_of_once_and_gets_everything_when_it_works_again(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    (store / MIRROR_FILE).mkdir(parents=True)  # a folder where a file must be
    mirror = RunMirror(f"file://{store}", RunFolder(whole), 2, look_s=0.01, others_s=0.0, first_wait_s=0.01)
    mirror.start()
    time.sleep(1)
    (store / MIRROR_FILE).rmdir()
    assert mirror.finish(60)
    said = capfd.readouterr().err
    assert said.count("warning:") == 1
    assert said.count("uploads again") == 1
    local = {path.relative_to(whole).as_posix(): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert {name: (store / name).read_bytes() for name in local} == local
    assert whole_files(f"file://{store}").keys() == local.keys()


def test_the_end_of_training_does_not_wait_for_ever_for_a_store(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    store.write_text("a file where a folder must be")
    mirror = RunMirror(f"file://{store}", RunFolder(whole), 2, look_s=0.01, first_wait_s=0.001)
    mirror.start()
    assert mirror.finish(60)
    assert "is not complete; the run is whole in" in capfd.readouterr().err


@pytest.mark.two_ranks
def test_two_processes_upload_one_run_and_go_on_from_it(dataset: Path, whole: Path, tmp_path: Path) -> None:
    """Six steps of two processes, most of them in a folder that is lost."""
    url = f"file://{tmp_path}/store"

    def train(name: str, *words: str) -> Any:
        arguments = train_arguments(dataset, tmp_path / name, *RESUMED, f"mirror={url}", "train_batch_size=2", *words)
        return lambda: main(["train", *arguments])

    run_ranks(train("first", "max_train_steps=4"), tmp_path / "log")
    shutil.rmtree(tmp_path / "first")
    said = run_ranks(train("second"), tmp_path / "log")
    assert "fetching step 4 of the run" in said[0]
    assert "fetching" not in said[1]
    assert len(losses(tmp_path / "second")) == 6
    assert whole_files(url).keys() >= {"final/model_index.json", "checkpoints/step-000006/state.json"}
