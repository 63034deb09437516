"""Every file of a run, damaged in ten ways: the run goes on to the same weights, or one line says what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.nano import train_arguments, train_config, write_dataset

from riffusion_train.cli.main import main
from riffusion_train.config.model import ExportWeights
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT, InputError, StoppedError
from riffusion_train.training.run import run_training
from riffusion_train.training.run_folder import Checkpoints
from riffusion_train.training.run_model import open_run_model
from riffusion_train.training.trainer import Trainer

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
WORDS = [
    "max_train_steps=3",
    "checkpointing_steps=1",
    "resume=auto",
    "validation.every_steps=1",
    "validation.keep_best=true",
]


def flipped(path: Path) -> None:
    """Change twenty bytes in the middle."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20] = bytes(byte ^ 1 for byte in data[middle : middle + 20])
    path.write_bytes(data)


def zeroed(path: Path) -> None:
    """End in zeros, as after a loss of power."""
    data = path.read_bytes()
    path.write_bytes(data[:-40] + bytes(min(40, len(data))))


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def linked_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def linked_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": flipped,
    "zeroed": zeroed,
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "no object": lambda path: path.write_bytes(b"[1, null]\n"),
    "no keys": lambda path: path.write_bytes(b"{}\n"),
    "gone": lambda path: path.unlink(),
    "folder": replaced_by_folder,
    "dangling": linked_to_nothing,
    "circular": linked_to_itself,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", num_train=4)


@pytest.fixture(scope="module")
def stopped(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps that was killed after the second."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    checkpoint = Trainer._checkpoint_if_due

    def checkpoint_and_leave(trainer: Trainer) -> None:
        checkpoint(trainer)
        if trainer.step == 2:
            raise StoppedError("")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_checkpoint_if_due", checkpoint_and_leave)
        with pytest.raises(StoppedError):
            run_training(train_config(dataset, run, *WORDS), [])
    return run


@pytest.fixture(scope="module")
def expected(dataset: Path, stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The final weights of the run, undamaged."""
    run = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(stopped, run)
    run_training(train_config(dataset, run, *WORDS), [])
    return run / "final" / WEIGHTS


FILES = (
    "config.yaml",
    "manifest.json",
    "metrics.jsonl",
    "overrides.jsonl",
    "spectrogram.json",
    "checkpoints/best.json",
    "checkpoints/step-000002/state.json",
    "checkpoints/step-000002/trained.safetensors",
    "checkpoints/step-000002/ema.safetensors",
    "checkpoints/step-000002/optimizer.safetensors",
)


def test_every_file_of_a_run_is_damaged_here(stopped: Path) -> None:
    found = {path.relative_to(stopped).as_posix() for path in stopped.rglob("*") if path.is_file()}
    assert {name.replace("step-000001", "step-000002") for name in found} == set(FILES)


CHECKPOINT_FILES = [name for name in FILES if name.startswith("checkpoints/step")]
OTHER_FILES = [name for name in FILES if name not in CHECKPOINT_FILES]


@pytest.mark.parametrize("way", DAMAGES)
@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_checkpoint_with_a_damaged_file_is_not_taken(stopped: Path, tmp_path: Path, name: str, way: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    DAMAGES[way](run / name)
    state, damaged = Checkpoints(run / "checkpoints", total_limit=2).load_newest()
    assert state is not None
    assert state.step == 1
    assert [path.name for path in damaged] == ["step-000002"]
    assert all("\n" not in problem for problem in damaged.values())


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, way) for name in OTHER_FILES for way in DAMAGES] + [(name, "flipped") for name in CHECKPOINT_FILES],
)
def test_a_damaged_file_costs_steps_or_ends_in_one_line(
    dataset: Path,
    stopped: Path,
    expected: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    way: str,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    DAMAGES[way](run / name)
    code = main(["train", *train_arguments(dataset, run, *WORDS)])
    out, err = capsys.readouterr()
    assert code in (EXIT_DONE, EXIT_INPUT), err
    if code == EXIT_INPUT:
        assert len(err.strip().splitlines()) == 1, err
        assert str(run) in err
        return
    assert_same(run, expected)
    assert ("step-000002 is damaged" in out) == (name in CHECKPOINT_FILES)


def assert_same(run: Path, expected: Path) -> None:
    weights, others = load_file(run / "final" / WEIGHTS), load_file(expected)
    assert all(weights[key].equal(others[key]) for key in others)


def test_a_state_of_0_1_0_that_does_not_fit_is_passed_over(
    dataset: Path, stopped: Path, expected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without hashes, only taking the state shows what is wrong."""
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    file = run / "checkpoints" / "step-000002" / "state.json"
    state = json.loads(file.read_text())
    del state["hash"], state["hashes"]
    file.write_text(json.dumps({**state, "scalars": {}}))
    run_training(train_config(dataset, run, *WORDS), [])
    assert "step-000002 is damaged (ValueError: it does not fit this run: KeyError: 'optimizer_groups')" in (
        capsys.readouterr().out
    )
    assert_same(run, expected)


def test_a_damaged_checkpoint_is_not_exported(stopped: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    assert open_run_model(run, "newest", ExportWeights.ema).step == 2
    flipped(run / "checkpoints" / "step-000002" / "ema.safetensors")
    with pytest.raises(
        InputError, match=r"step-000002: is damaged \(ValueError: ema\.safetensors is not what was written\)"
    ):
        open_run_model(run, "newest", ExportWeights.ema)


def test_ranks_that_can_read_different_checkpoints_do_not_train_together(
    dataset: Path, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    require = Trainer._require_same_step

    def as_another_rank(trainer: Trainer, step: int) -> None:
        monkeypatch.setattr(trainer.distribution, "from_main", lambda ask: 1)
        require(trainer, step)

    monkeypatch.setattr(Trainer, "_require_same_step", as_another_rank)
    with pytest.raises(InputError, match="rank 0 can read step 2, rank 0 step 1; see whether all machines"):
        run_training(train_config(dataset, run, *WORDS), [])
