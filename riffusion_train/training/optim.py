"""The optimizer and the learning rate over the steps."""

import importlib.util
from typing import Any

import torch
from torch import nn

from riffusion_train.config.train import OptimizerConfig, OptimizerName, ScheduleConfig, ScheduleName, TrainConfig
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
