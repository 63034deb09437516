"""The optimizers of other packages: each goes on exactly after being saved and restored."""

from pathlib import Path

import pytest
import torch
from support.nano import train_config
from torch import nn

from riffusion_train.training.distribution import like_weight
from riffusion_train.training.optimizer import (
    averaged_weights,
    averages,
    make_ema,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    update_ema,
)
from riffusion_train.training.run_folder import Checkpoints, TrainingState

NAMES = ["weight", "bias"]
PACKAGES = {"adamw": "torch", "prodigy": "prodigyopt", "schedule_free": "schedulefree"}


def start(name: str) -> tuple[nn.Linear, torch.optim.Optimizer]:
    pytest.importorskip(PACKAGES[name])
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    config = train_config(Path("d"), Path("r"), f"optimizer={name}", "optimizer.lr=1.0").optimizer
    groups = [{"params": [layer.weight], "lr": config.lr}, {"params": [layer.bias], "lr": config.lr}]
    optimizer = make_optimizer(config, groups)
    if name == "schedule_free":
        optimizer.train()  # type: ignore[attr-defined]
    return layer, optimizer


def step(layer: nn.Linear, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for index in range(first, last):
        optimizer.zero_grad()
        layer(torch.full((4, 3), 1.0 + index)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", PACKAGES)
def test_six_steps_equal_three_plus_three_through_a_file(name: str, tmp_path: Path) -> None:
    whole, optimizer = start(name)
    step(whole, optimizer, 0, 6)
    first, optimizer = start(name)
    step(first, optimizer, 0, 3)
    tensors, groups = optimizer_tensors(optimizer, NAMES)
    weights = dict(first.state_dict())
    checkpoints = Checkpoints(tmp_path, total_limit=1)
    checkpoints.save(TrainingState(3, weights, {}, tensors, {"optimizer_groups": groups}, 1))
    state, _ = checkpoints.load_newest()
    assert state is not None
    second, optimizer = start(name)
    second.load_state_dict(state.trained)
    restore_optimizer(optimizer, NAMES, state.optimizer, state.scalars["optimizer_groups"], like_weight=like_weight)
    step(second, optimizer, 3, 6)
    assert torch.equal(second.weight, whole.weight)
    assert torch.equal(second.bias, whole.bias)
    assert not torch.equal(second.weight, first.weight)


def test_the_schedule_free_average_is_shown_and_the_trained_weights_come_back_bit_for_bit() -> None:
    layer, optimizer = start("schedule_free")
    step(layer, optimizer, 0, 5)
    trained = layer.weight.detach().clone()
    parameters = [layer.weight, layer.bias]
    kept = averages(parameters, None, optimizer)
    with averaged_weights(parameters, None, optimizer):
        assert torch.equal(layer.weight, kept[0])
        assert not torch.equal(layer.weight, trained)
    assert torch.equal(layer.weight, trained)
    step(layer, optimizer, 5, 6)  # still in training mode


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    table = torch.arange(4.0)
    optimizer = {"weight.qmap1": table, "bias.qmap1": table}  # as bitsandbytes keeps its quantisation tables
    checkpoints = Checkpoints(tmp_path, total_limit=1)
    checkpoints.save(TrainingState(1, {"weight": torch.ones(1)}, {}, optimizer, {}, 1))
    state, _ = checkpoints.load_newest()
    assert state is not None
    assert all(torch.equal(tensor, table) for tensor in state.optimizer.values())


def test_the_8bit_moments_of_bitsandbytes_survive_being_restored() -> None:
    """Its kernels need a GPU; what it keeps and how it takes it back does not."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = nn.Linear(64, 64)

    def build() -> torch.optim.Optimizer:
        return bitsandbytes.optim.AdamW8bit([{"params": [layer.weight]}, {"params": [layer.bias]}], lr=1e-3)

    optimizer = build()
    for group, weight in enumerate((layer.weight, layer.bias)):
        weight.grad = torch.zeros_like(weight)
        optimizer.init_state(optimizer.param_groups[group], weight, group, 0)  # type: ignore[attr-defined]
        optimizer.state[weight]["step"] = 7
    before = {name: dict(optimizer.state[weight]) for name, weight in layer.named_parameters()}
    assert before["weight"]["state1"].dtype is torch.uint8
    tensors, groups = optimizer_tensors(optimizer, NAMES)
    other = build()
    restore_optimizer(other, NAMES, tensors, groups, like_weight=like_weight)
    for name, weight in layer.named_parameters():
        after = other.state[weight]
        assert set(after) == set(before[name])
        assert after["step"] == 7
        for key, value in before[name].items():
            if isinstance(value, torch.Tensor):
                assert after[key].dtype == value.dtype
                assert torch.equal(after[key], value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [(1 + step) / (10 + step) for step in range(1, 5)]),
        (["ema.use_ema_warmup=true"], [1 - (1 + step) ** (-2 / 3) for step in range(1, 5)]),
        (
            ["ema.use_ema_warmup=true", "ema.inv_gamma=10", "ema.power=0.75"],
            [1 - (1 + s / 10) ** -0.75 for s in range(1, 5)],
        ),
        (["ema.decay=0.15"], [0.15] * 4),
    ],
)
def test_the_average_warms_up_as_it_is_told(words: list[str], expected: list[float]) -> None:
    weight = nn.Parameter(torch.zeros(1))
    ema = make_ema(train_config(Path("d"), Path("r"), *words).ema, [weight])
    assert ema is not None
    assert ema.shadow_params[0].dtype is torch.float32
    average = 0.0
    update_ema(ema, [weight])  # the first step copies
    for index, decay in enumerate(expected):
        with torch.no_grad():
            weight.fill_(float(index + 1))
        update_ema(ema, [weight])
        average = decay * average + (1 - decay) * float(weight)
        assert float(ema.shadow_params[0]) == pytest.approx(average, rel=1e-5)
