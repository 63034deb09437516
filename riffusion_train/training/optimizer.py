"""The optimizer, the learning rate over the steps, and the averaged weights (EMA)."""

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from riffusion_train.config.train import (
    EmaConfig,
    OptimizerConfig,
    OptimizerName,
    ScheduleConfig,
    ScheduleName,
    TrainConfig,
)
from riffusion_train.runtime.errors import InputError

_PACKAGES = {
    OptimizerName.adamw_8bit: "bitsandbytes",
    OptimizerName.prodigy: "prodigyopt",
    OptimizerName.schedule_free: "schedulefree",
}


def parameter_groups(objective: nn.Module, lr: float, text_encoder_lr: float | None) -> list[dict[str, Any]]:
    """Return the trainable weights in groups of one learning rate each."""
    text: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            (text if name.startswith("text_encoder.") else rest).append(parameter)
    groups = [{"params": rest, "lr": lr}, {"params": text, "lr": lr if text_encoder_lr is None else text_encoder_lr}]
    return [group for group in groups if group["params"]]


def check_optimizer(config: TrainConfig, device: torch.device) -> None:
    """Refuse an optimizer that cannot run here or does not go with the other settings, before anything is built.

    Raises:
        InputError: With the mend.
    """
    name, package = config.optimizer.name, _PACKAGES.get(config.optimizer.name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise InputError(f"optimizer={name.value} needs {package}; pip install riffusion-train[optimizers]")
    if name is OptimizerName.adamw_8bit and device.type not in ("cuda", "xpu"):
        raise InputError(
            f"optimizer=adamw_8bit: bitsandbytes has no 8-bit kernels for {device.type}; take optimizer=adamw"
        )
    text_encoder_lr = config.method.text_encoder_lr
    if name is OptimizerName.prodigy and text_encoder_lr not in (None, config.optimizer.lr):
        raise InputError("optimizer=prodigy finds one learning rate for all weights; take method.text_encoder_lr=null")
    if name is OptimizerName.schedule_free:
        if config.ema.enabled:
            raise InputError("optimizer=schedule_free averages the weights itself; take ema=none")
        if config.schedule.name not in (ScheduleName.constant, ScheduleName.constant_with_warmup):
            raise InputError(
                f"optimizer=schedule_free needs no schedule.name={config.schedule.name.value}; take schedule=warmup or constant"
            )


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
    """Take the weights after a step into the average, as `EMAModel.step` does, but in place.

    Its own subtraction makes a copy of all weights in every step: 3.2 GiB for Stable Diffusion 1.5, and a tenth of a step of
    the smallest models.
    """
    ema.optimization_step += 1
    ema.cur_decay_value = ema.get_decay(ema.optimization_step)
    with torch.no_grad():
        torch._foreach_lerp_(ema.shadow_params, list(weights), 1 - ema.cur_decay_value)


def averages_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer keeps the average of the weights itself, as the schedule-free ones do."""
    return any("train_mode" in group for group in optimizer.param_groups)


@contextlib.contextmanager
def averaged_weights(
    parameters: Sequence[nn.Parameter], ema: Any | None, optimizer: torch.optim.Optimizer
) -> Iterator[None]:
    """Put the averages in place of the trained weights for the length of a block; the trained ones come back bit for bit."""
    if ema is not None:
        ema.store(parameters)
        ema.copy_to(parameters)
        try:
            yield
        finally:
            ema.restore(parameters)
    elif averages_itself(optimizer):
        # Its own way back, `train()`, is exact on paper only: it would make a measured run another run.
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
