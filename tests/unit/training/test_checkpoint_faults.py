"""Checkpoints under a full disk and a kill, at any byte: a child process writes, and the parent reads what is left."""

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.processes import in_child

from riffusion_train.runtime import files
from riffusion_train.runtime.errors import InputError
from riffusion_train.training import run_folder
from riffusion_train.training.run_folder import Checkpoints, TrainingState

SIZE = 2000


def state_at(step: int) -> TrainingState:
    return TrainingState(
        step=step,
        trained={"weight": torch.full((SIZE,), float(step))},
        ema={"weight": torch.full((SIZE,), float(step) / 2)},
        optimizer={"weight.exp_avg": torch.ones(SIZE)},
        scalars={"words": "x" * 20000},
        global_batch_size=8,
    )


def newest_step(folder: Path) -> int:
    loaded, damaged = Checkpoints(folder, total_limit=2).load_newest()
    assert loaded is not None
    assert not damaged, "nothing half-written may look whole"
    assert float(loaded.trained["weight"][0]) == loaded.step
    return loaded.step


@pytest.mark.parametrize("room_bytes", [0, 1, 100, 8000, 8085, 9000])
def test_a_disk_that_fills_up_at_any_byte_leaves_the_checkpoint_before(tmp_path: Path, room_bytes: int) -> None:
    Checkpoints(tmp_path, total_limit=1).save(state_at(5))

    def save_with_little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, room_bytes))
        Checkpoints(tmp_path, total_limit=1).save(state_at(10))

    assert in_child(save_with_little_room) == 1
    assert newest_step(tmp_path) == 5
    Checkpoints(tmp_path, total_limit=1).save(state_at(10))
    assert newest_step(tmp_path) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["step-000010"]


@pytest.mark.parametrize("call", range(11))
def test_a_kill_between_any_two_writes_leaves_a_whole_checkpoint(tmp_path: Path, call: int) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=1)
    checkpoints.save(state_at(5))
    passed = iter(range(100))

    def killed_at(original: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            if next(passed) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return step

    def save_and_be_killed() -> None:
        run_folder.save_file = killed_at(run_folder.save_file)  # type: ignore[assignment]
        files._sync = killed_at(files._sync)  # type: ignore[assignment]
        Path.replace = killed_at(Path.replace)  # type: ignore[assignment, method-assign]
        Path.rename = killed_at(Path.rename)  # type: ignore[assignment, method-assign]
        run_folder.shutil.rmtree = killed_at(run_folder.shutil.rmtree)  # type: ignore[assignment]
        checkpoints.save(state_at(10))

    assert in_child(save_and_be_killed) == -signal.SIGKILL
    assert newest_step(tmp_path) in (5, 10)
    checkpoints.save(state_at(15))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000015"]


def test_a_damaged_checkpoint_is_set_aside_so_that_its_step_can_be_saved_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=2)
    checkpoints.save(state_at(5))
    checkpoints.save(state_at(10))
    (tmp_path / "step-000010" / "ema.safetensors").unlink()
    loaded, damaged = checkpoints.load_newest()
    assert loaded is not None
    assert loaded.step == 5
    checkpoints.set_aside(damaged)
    assert [path.name for path in checkpoints.steps()] == ["step-000005"]
    checkpoints.save(state_at(10))
    assert newest_step(tmp_path) == 10


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["trained", "ema", "optimizer"])
def test_a_changed_number_is_noticed(tmp_path: Path, name: str) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=2)
    checkpoints.save(state_at(5))
    flip_a_byte(checkpoints.save(state_at(10)) / f"{name}.safetensors")
    loaded, damaged = checkpoints.load_newest()
    assert loaded is not None
    assert loaded.step == 5
    assert list(damaged.values()) == [f"ValueError: {name}.safetensors is not what was written"]


def test_a_changed_number_in_the_state_is_noticed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=2)
    checkpoints.save(state_at(5))
    file = checkpoints.save(state_at(10)) / "state.json"
    file.write_text(file.read_text().replace('"global_batch_size": 8', '"global_batch_size": 9'))
    _, damaged = checkpoints.load_newest()
    assert list(damaged.values()) == ["ValueError: state.json is not what was written"]


def test_a_checkpoint_of_0_1_0_has_no_hashes_and_is_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=2)
    file = checkpoints.save(state_at(5)) / "state.json"
    state = json.loads(file.read_text())
    assert set(state.pop("hashes")) == {"trained.safetensors", "ema.safetensors", "optimizer.safetensors"}
    del state["hash"]
    file.write_text(json.dumps(state))
    assert newest_step(tmp_path) == 5


def test_what_is_no_folder_is_set_aside_and_links_are_never_followed_to_be_removed(tmp_path: Path) -> None:
    elsewhere = Checkpoints(tmp_path / "elsewhere", total_limit=1).save(state_at(5))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "step-000005").symlink_to(elsewhere)
    (folder / "step-000010").write_text("a file")
    (folder / "step-000015").symlink_to(tmp_path / "nowhere")
    (folder / "step-notes").mkdir()
    checkpoints = Checkpoints(folder, total_limit=1)
    loaded, damaged = checkpoints.load_newest()
    assert loaded is not None
    assert loaded.step == 5
    assert set(damaged.values()) == {"ValueError: it is not a folder"}
    checkpoints.set_aside(damaged)
    checkpoints.save(state_at(10))
    assert newest_step(folder) == 10
    assert elsewhere.is_dir()
    assert [path.name for path in checkpoints.steps()] == ["step-000010"]


def test_a_checkpoint_under_the_name_of_another_is_not_taken(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=2)
    checkpoints.save(state_at(5)).rename(tmp_path / "step-000020")
    checkpoints.save(state_at(10))
    loaded, damaged = checkpoints.load_newest()
    assert loaded is not None
    assert loaded.step == 10
    assert list(damaged.values()) == ["ValueError: state.json is of step 5"]


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=2)
    checkpoints.save(state_at(5))
    (tmp_path / "step-000005" / "state.json").write_text("[]")
    with pytest.raises(InputError, match="none of its 1 checkpoints can be read"):
        checkpoints.load_newest()


def test_a_checkpoint_of_a_newer_schema_is_refused_with_the_fix(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=2)
    file = checkpoints.save(state_at(5)) / "state.json"
    file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 7'))
    with pytest.raises(InputError, match=r"checkpoint schema 7, this one knows 1\); pip install --upgrade"):
        checkpoints.load_newest()


def test_the_best_checkpoint_outlives_the_limit_until_another_is_better(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=1)
    assert checkpoints.best() is None
    for step, best in ((1, True), (2, False), (3, False), (4, True), (5, False)):
        checkpoints.save(state_at(step))
        if best:
            checkpoints.keep_best(step)
        kept = {1: [1], 2: [1, 2], 3: [1, 3], 4: [4], 5: [4, 5]}[step]
        assert [path.name for path in checkpoints.steps()] == [f"step-{number:06d}" for number in kept]
    assert checkpoints.best() == tmp_path / "step-000004"
