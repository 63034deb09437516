"""The averaged weights of a run, put in place of the trained ones for as long as they are looked at."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from riffusion_train.config.train import EmaConfig


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
