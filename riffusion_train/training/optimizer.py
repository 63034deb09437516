"""The optimizer with its saved state, the learning rate over the steps, and the averaged weights (EMA)."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from riffusion_train.config.train import (
    EmaConfig,
    OptimizerConfig,
    OptimizerName,
    ScheduleConfig,
)


def parameter_groups(
    networks: Mapping[str, nn.Module], lr: float, text_encoder_lr: float | None
) -> list[dict[str, Any]]:
    """Return the trainable weights of a model's networks, by name, in groups of one learning rate each."""
    text: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, network in networks.items():
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        (text if name == "text_encoder" else rest).extend(trained)
    groups = [{"params": rest, "lr": lr}, {"params": text, "lr": lr if text_encoder_lr is None else text_encoder_lr}]
    return [group for group in groups if group["params"]]


def make_optimizer(config: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Build the optimizer over groups of weights with a learning rate each. Those of other packages are imported here."""
    betas = (config.beta1, config.beta2)
    if config.name is OptimizerName.adamw_8bit:
        from bitsandbytes.optim.adamw import AdamW8bit

        return AdamW8bit(groups, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay)
    if config.name is OptimizerName.prodigy:
        from prodigyopt import Prodigy

        return Prodigy(
            groups,
            lr=config.lr,
            betas=betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            use_bias_correction=True,
            safeguard_warmup=True,
        )
    if config.name is OptimizerName.schedule_free:
        from schedulefree import AdamWScheduleFree

        return AdamWScheduleFree(groups, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay)
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )


def make_schedule(
    config: ScheduleConfig, optimizer: torch.optim.Optimizer, max_train_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Build the learning-rate schedule. It is stepped once an optimizer step, whatever the number of processes."""
    from diffusers.optimization import get_scheduler

    return get_scheduler(
        config.name.value,
        optimizer,
        num_warmup_steps=min(config.num_warmup_steps, max_train_steps),
        num_training_steps=max_train_steps,
    )


def restore_schedule(schedule: Any, saved: dict[str, Any]) -> tuple[float, float]:
    """Restore the position of a schedule; from there on the learning rate is that of the schedule as it is now.

    Args:
        schedule: What `make_schedule` returned.
        saved: Its saved state, perhaps with another end.

    Returns:
        The learning rate of the next step as it was planned when the state was saved, and as it is now; they differ where
        the shape depends on the end, and the end has changed.
    """
    schedule.load_state_dict({**schedule.state_dict(), **saved})
    planned = float(saved["_last_lr"][0])
    rates = [
        base * scale(schedule.last_epoch) for base, scale in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates
    return planned, float(rates[0])


def make_ema(config: EmaConfig, weights: Sequence[nn.Parameter]) -> Any | None:
    """Build diffusers' `EMAModel` over the trained weights, in their own precision, fp32; None where none is kept."""
    from diffusers.training_utils import EMAModel

    if not config.enabled:
        return None
    return EMAModel(
        weights,
        decay=config.decay,
        update_after_step=config.update_after_step,
        use_ema_warmup=config.use_ema_warmup,
        inv_gamma=config.inv_gamma,
        power=config.power,
        foreach=True,
    )


def update_ema(ema: Any, weights: Sequence[nn.Parameter]) -> None:
    """Move the average towards the weights after a step, as `EMAModel.step` does, but in place.

    `EMAModel` subtracts into a copy of all weights in every step: 3.2 GiB for Stable Diffusion 1.5, and a tenth of a step of
    the smallest models.
    """
    ema.optimization_step += 1
    ema.cur_decay_value = ema.get_decay(ema.optimization_step)
    with torch.no_grad():
        # average += (1 - decay) * (weight - average)
        torch._foreach_lerp_(ema.shadow_params, list(weights), 1 - ema.cur_decay_value)


def averages_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer keeps the average of the weights itself, as the schedule-free ones do."""
    return any("train_mode" in group for group in optimizer.param_groups)


@contextlib.contextmanager
def averaged_weights(
    parameters: Sequence[nn.Parameter], ema: Any | None, optimizer: torch.optim.Optimizer
) -> Iterator[None]:
    """Use the averages as the weights for the length of a block; the trained weights come back bit for bit."""
    if ema is not None:
        ema.store(parameters)
        ema.copy_to(parameters)
        try:
            yield
        finally:
            ema.restore(parameters)
    elif averages_itself(optimizer):
        # `train()` restores the weights only up to rounding: measuring would change the run. So they are copied.
        kept = [parameter.detach().clone() for parameter in parameters]
        optimizer.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            optimizer.train()  # type: ignore[attr-defined]
            with torch.no_grad():
                torch._foreach_copy_(list(parameters), kept)
    else:
        yield


def averages(parameters: Sequence[nn.Parameter], ema: Any | None, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the average of every weight, in order; empty where none is kept."""
    if ema is not None:
        return list(ema.shadow_params)
    if not averages_itself(optimizer):
        return []
    with averaged_weights(parameters, ema, optimizer):
        return [parameter.detach().clone() for parameter in parameters]


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> tuple[dict[str, Tensor], list[Any]]:
    """Split an optimizer's state into tensors and its groups.

    Args:
        optimizer: The optimizer.
        names: Names of its weights, in the order of its groups.

    Returns:
        The tensors, as `<weight>.<moment>`, counts among them; and the groups as JSON data.
    """
    state = optimizer.state_dict()
    tensors = {
        f"{names[index]}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, moments in state["state"].items()
        for key, value in _flat(moments).items()
    }
    groups = [
        {key: value.item() if isinstance(value, Tensor) else value for key, value in group.items() if key != "params"}
        for group in state["param_groups"]
    ]
    return tensors, groups


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    names: list[str],
    tensors: dict[str, Tensor],
    groups: list[Any],
    *,
    like_weight: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Restore what `optimizer_tensors` returned.

    Args:
        optimizer: The optimizer.
        names: Names of its weights, in the order of its groups.
        tensors: The tensors, as `<weight>.<moment>`.
        groups: The groups.
        like_weight: From a whole tensor and a weight of its shape to a copy in the weight's memory layout, which the fused
            kernel relies on, and its shard.
    """
    state: dict[int, dict[str, Any]] = {}
    index_of = {name: index for index, name in enumerate(names)}
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    counts = _plain_counts(optimizer)
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition(".")
        index = index_of[name]
        value: Any = tensor
        if tensor.dim() == 0 and moment in counts:
            value = tensor.item()
        elif tensor.shape == weights[index].shape and tensor.is_floating_point():
            value = like_weight(tensor, weights[index])
        state.setdefault(index, {})[moment] = value
    now = optimizer.state_dict()["param_groups"]
    merged = [{**saved, "params": group["params"]} for saved, group in zip(groups, now, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": merged})


def _flat(moments: dict[str, Any]) -> dict[str, Any]:
    """Return the moments of one weight; bitsandbytes keeps its 8-bit ones a level deeper, hidden from FSDP."""
    flat: dict[str, Any] = {}
    for key, value in moments.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat


def _plain_counts(optimizer: torch.optim.Optimizer) -> set[str]:
    """Return the moments that are plain numbers: torch's own optimizers count their steps in tensors, the others do not."""
    return set() if type(optimizer).__module__.startswith("torch.") else {"step"}
