"""The denoising loop over a canvas of any width: overlapping windows blended in every step, guidance, and the solvers."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from riffusion_train.config.sample import SchedulerName
from riffusion_train.sampling.text import Condition

StepReport = Callable[[int, int], None]
"""Called with denoising steps done and in all."""

StepHook = Callable[[Tensor, Tensor | None], Tensor]
"""Given the latents after a step and the timestep that comes next (None after the last); returns what goes on."""

_LEAST_WEIGHT = 0.02
"""Of a window's outermost column: every column must have some weight, also where only one window reaches."""


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a canvas that the UNet sees at once."""

    row: int
    """Which canvas of the batch."""
    start: int
    """First column; a window may reach over the end of a canvas that goes round."""
    condition: Condition


def window_starts(width: int, window: int, *, circular: bool = False, overlap: float = 0.5) -> list[int]:
    """Return the first columns of the windows that cover a canvas; the last one ends with it, unless it goes round.

    They lie at multiples of one step, so that a longer canvas begins with the windows of a shorter one.

    Args:
        width: Columns of the canvas.
        window: Columns of a window.
        circular: Whether the canvas goes round.
        overlap: Share of a window that its neighbour sees too.
    """
    if width <= window:
        return [0]
    step = max(round(window * (1 - overlap)), 1)
    if circular:
        count = -(-width // step)
        return [index * width // count for index in range(count)]
    return [*range(0, width - window, step), width - window]


def denoise(
    unet: Any,
    scheduler: Any,
    latents: Tensor,
    windows: Sequence[Window],
    window_width: int,
    *,
    num_inference_steps: int,
    strength: float = 1.0,
    noise: Tensor | None = None,
    generators: Sequence[torch.Generator] | None = None,
    unet_batch_size: int = 1,
    hook: StepHook | None = None,
    report: StepReport | None = None,
) -> Tensor:
    """Denoise canvases.

    The UNet always sees the same number of windows at once, so that a clip does not depend on what is made beside it: sums
    are rounded otherwise in a batch of another size.

    Args:
        unet: The denoiser.
        scheduler: A diffusers solver; its state is reset.
        latents: Standard normal noise, or at a strength below 1 what is to be changed, float32 (B, C, h, width).
        windows: What covers the canvases.
        window_width: Columns of a window, at most `width`.
        num_inference_steps: Solver steps of a whole denoising.
        strength: Share of the steps that is done (SDEdit, Meng et al. 2021, arXiv:2108.01073).
        noise: What is laid over the latents where strength is below 1.
        generators: One a canvas, for solvers that add noise of their own.
        unet_batch_size: Windows in one call of the UNet.
        hook: May change the latents after every step.
        report: Told about every step.

    Returns:
        Latents (B, C, h, width), still in the UNet's scale.
    """
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    skipped = num_inference_steps - min(int(num_inference_steps * strength + 1e-6), num_inference_steps)
    timesteps = scheduler.timesteps[skipped:]
    if noise is None:
        canvas = latents * scheduler.init_noise_sigma
    elif not len(timesteps):
        return latents
    else:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped)
        canvas = scheduler.add_noise(latents, noise, timesteps[:1])
    extra: dict[str, Any] = {}
    if generators is not None and "generator" in inspect.signature(scheduler.step).parameters:
        extra["generator"] = list(generators)
    for done, timestep in enumerate(timesteps, start=1):
        seen = scheduler.scale_model_input(canvas, timestep)
        prediction = predict(unet, seen, timestep, windows, window_width, unet_batch_size)
        canvas = scheduler.step(prediction, timestep, canvas, **extra).prev_sample
        if hook is not None:
            canvas = hook(canvas, timesteps[done] if done < len(timesteps) else None)
        if report is not None:
            report(done, len(timesteps))
    return canvas


@torch.no_grad()
def predict(
    unet: Any, seen: Tensor, timestep: Tensor, windows: Sequence[Window], window_width: int, unet_batch_size: int
) -> Tensor:
    """Return what the UNet predicts for canvases (B, C, h, width): the mean of all windows, least at their edges."""
    width = seen.shape[-1]
    total = torch.zeros_like(seen)
    weight = seen.new_zeros(len(seen), width)
    shape = _bell(window_width).to(seen.device) if width > window_width else seen.new_ones(window_width)
    for some in _unet_batches(windows, unet_batch_size):
        parts = _guided(unet, _cut(seen, some, window_width), timestep, some, unet_batch_size)
        for window, part in zip(some, parts, strict=True):
            columns = torch.arange(window.start, window.start + window_width, device=seen.device) % width
            total[window.row].index_add_(-1, columns, part * shape)
            weight[window.row].index_add_(0, columns, shape)
    return total if width == window_width else total / weight[:, None, None]


def _unet_batches(windows: Sequence[Window], unet_batch_size: int) -> Iterator[list[Window]]:
    """Yield windows that can be taken together: guided or not, with prompts of one length."""
    kinds: dict[tuple[bool, int], list[Window]] = {}
    for window in windows:
        condition = window.condition
        kinds.setdefault((condition.guidance_scale != 1, len(condition.positive)), []).append(window)
    for alike in kinds.values():
        for first in range(0, len(alike), unet_batch_size):
            yield alike[first : first + unet_batch_size]


def _cut(seen: Tensor, windows: Sequence[Window], window_width: int) -> Tensor:
    columns = torch.arange(window_width, device=seen.device)
    return torch.stack([seen[window.row][..., (columns + window.start) % seen.shape[-1]] for window in windows])


def _guided(unet: Any, parts: Tensor, timestep: Tensor, windows: Sequence[Window], unet_batch_size: int) -> Tensor:
    """Return the guided predictions of windows, float32; a batch that is not full is filled with its first window."""
    filled = [*windows, *[windows[0]] * (unet_batch_size - len(windows))]
    x = torch.cat([parts, *[parts[:1]] * (unet_batch_size - len(windows))]).to(unet.dtype)
    positive = torch.stack([window.condition.positive for window in filled]).to(x)
    if windows[0].condition.guidance_scale == 1:
        return unet(x, timestep, positive).sample.float()[: len(windows)]
    negative = torch.stack([window.condition.negative for window in filled]).to(x)
    away, towards = unet(torch.cat([x, x]), timestep, torch.cat([negative, positive])).sample.float().chunk(2)
    scales = torch.tensor([window.condition.guidance_scale for window in filled], device=x.device)
    return (away + scales[:, None, None, None] * (towards - away))[: len(windows)]


def _bell(width: int) -> Tensor:
    """Return the weights of a window's columns: a raised cosine, and a little at its ends."""
    return (torch.hann_window(width + 2, periodic=False)[1:-1]).clamp(min=_LEAST_WEIGHT)


def make_scheduler(name: SchedulerName, trained: Any) -> Any:
    """Build the solver that `name` stands for, on the noise schedule that the model was trained with."""
    import diffusers

    config = dict(trained.config)
    # From pure noise, whose sigma has no end, Karras's steps would nearly all be spent where there is nothing to see.
    karras = not config.get("rescale_betas_zero_snr", False)
    if name is SchedulerName.ddim:
        return diffusers.DDIMScheduler.from_config(config, clip_sample=False)
    if name is SchedulerName.euler:
        return diffusers.EulerDiscreteScheduler.from_config(config)
    if name is SchedulerName.euler_a:
        return diffusers.EulerAncestralDiscreteScheduler.from_config(config)
    if name is SchedulerName.unipc:
        return diffusers.UniPCMultistepScheduler.from_config(config, use_karras_sigmas=karras)
    if name is SchedulerName.lcm:
        return diffusers.LCMScheduler.from_config(config, clip_sample=False)
    return diffusers.DPMSolverMultistepScheduler.from_config(
        config, algorithm_type="dpmsolver++", use_karras_sigmas=karras
    )
