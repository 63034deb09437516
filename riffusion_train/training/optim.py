"""The optimizer and the learning rate over the steps."""

from typing import Any

import torch
from torch import nn

from riffusion_train.config.train import OptimizerConfig, ScheduleConfig


def parameter_groups(objective: nn.Module, lr: float, text_encoder_lr: float | None) -> list[dict[str, Any]]:
    """Return the trainable weights in groups of one learning rate each."""
    text: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            (text if name.startswith("text_encoder.") else rest).append(parameter)
    groups = [{"params": rest, "lr": lr}, {"params": text, "lr": lr if text_encoder_lr is None else text_encoder_lr}]
    return [group for group in groups if group["params"]]


def make_optimizer(config: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Build the optimizer; the fused kernel where every weight is floating point on one device."""
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
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
