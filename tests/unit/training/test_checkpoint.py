from pathlib import Path

import pytest
import torch

from riffusion_train.training import run_folder
from riffusion_train.training.distribution import like_weight
from riffusion_train.training.optimizer import optimizer_tensors, restore_optimizer
from riffusion_train.training.run_folder import Checkpoints, TrainingState


def state_at(step: int) -> TrainingState:
    return TrainingState(
        step=step,
        trained={"weight": torch.full((3,), float(step))},
        ema={"weight": torch.full((3,), float(step) / 2)},
        optimizer={"weight.exp_avg": torch.ones(3)},
        scalars={"schedule": {"last_epoch": step}},
        global_batch_size=8,
    )


def test_a_saved_state_reads_back_equal(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=2)
    checkpoints.save(state_at(5))
    loaded, damaged = checkpoints.load_newest()
    assert loaded is not None
    assert not damaged
    assert (loaded.step, loaded.scalars, loaded.global_batch_size) == (5, {"schedule": {"last_epoch": 5}}, 8)
    assert torch.equal(loaded.ema["weight"], state_at(5).ema["weight"])


def test_old_checkpoints_go_only_after_the_new_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=1)
    checkpoints.save(state_at(5))

    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(state_at(10))
    assert [path.name for path in checkpoints.steps()] == ["step-000005"]
    monkeypatch.undo()
    checkpoints.save(state_at(10))
    assert [path.name for path in checkpoints.steps()] == ["step-000010"]
    assert [path.name for path in tmp_path.iterdir()] == ["step-000010"]


@pytest.mark.parametrize("file", ["trained.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("length", [0, 20])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path, file: str, length: int) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=2)
    checkpoints.save(state_at(5))
    checkpoints.save(state_at(10))
    damaged = tmp_path / "step-000010" / file
    damaged.write_bytes(damaged.read_bytes()[:length])
    loaded, damaged = checkpoints.load_newest()
    assert loaded is not None
    assert loaded.step == 5
    assert [path.name for path in damaged] == ["step-000010"]


def test_an_optimizer_continues_bit_for_bit_after_being_restored() -> None:
    def start() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        return layer, torch.optim.AdamW([{"params": [layer.weight], "lr": 0.1}, {"params": [layer.bias]}], lr=0.01)

    def step(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            layer(torch.ones(4, 3)).square().sum().backward()
            optimizer.step()

    names = ["weight", "bias"]
    whole, optimizer = start()
    step(whole, optimizer, 6)
    first, optimizer = start()
    step(first, optimizer, 3)
    tensors, groups = optimizer_tensors(optimizer, names)
    second, optimizer = start()
    second.load_state_dict(first.state_dict())
    restore_optimizer(optimizer, names, tensors, groups, like_weight=like_weight)
    step(second, optimizer, 3)
    assert torch.equal(second.weight, whole.weight)
    assert torch.equal(second.bias, whole.bias)
