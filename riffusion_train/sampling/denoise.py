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
"""Called with the number of denoising steps that are done, and of all of them."""

StepHook = Callable[[Tensor, Tensor | None], Tensor]
"""Takes the latents after a step and the next timestep (None after the last); returns the latents to continue with."""

_MIN_WEIGHT = 0.02
"""Of a window's outermost column: a column that only one window covers must have some weight."""


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a canvas that the UNet sees in one piece."""

    row: int
    """Index of the canvas in the batch."""
    start: int
    """First column; on a circular canvas a window may reach over the end."""
    condition: Condition


def window_starts(width: int, window: int, *, circular: bool = False, overlap: float = 0.5) -> list[int]:
    """Return the first columns of the windows that cover a canvas; the last one ends with it, unless it is circular.

    They start at multiples of one step, so that a longer canvas begins with the windows of a shorter one.

    Args:
        width: Columns of the canvas.
        window: Columns of a window.
        circular: Whether the canvas is circular: its end meets its beginning.
        overlap: Share of a window that its neighbour covers too.
    """
    if width <= window:
        return [0]
    step = max(round(window * (1 - overlap)), 1)
    if circular:
        count = -(-width // step)
        return [index * width // count for index in range(count)]
    return [*range(0, width - window, step), width - window]


def run_denoising(
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
    """Denoise canvases in overlapping windows that are blended in every step.

    Blending is MultiDiffusion's (Bar-Tal et al. 2023, arXiv:2302.08113), with weights that fall towards a window's edges.
    The UNet always sees the same number of windows at once, so that a clip does not depend on the rest of its
    batch: in a batch of another size, sums are rounded differently.

    Args:
        unet: The denoiser.
        scheduler: A diffusers scheduler; its state is reset.
        latents: Standard normal noise, or what to change if `noise` is given, float32 (B, C, h, width).
        windows: The windows that cover the canvases.
        window_width: Columns of a window, at most `width`.
        num_inference_steps: Steps from pure noise to the image.
        strength: Share of these steps that is done, the last ones (SDEdit, Meng et al. 2021, arXiv:2108.01073).
        noise: What is added to the latents at the first of the steps that are done.
        generators: One for each canvas, for schedulers that add noise of their own.
        unet_batch_size: Windows in one call of the UNet.
        hook: May change the latents after every step.
        report: Called after every step.

    Returns:
        Latents, float32 (B, C, h, width), in the UNet's scale.
    """
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    skipped = num_inference_steps - min(int(num_inference_steps * strength + 1e-6), num_inference_steps)
    timesteps = scheduler.timesteps[skipped:]
    if noise is None:
        # Schedulers in sigma space (Euler) begin with noise of the largest sigma, the others with that of 1.
        canvas = latents * scheduler.init_noise_sigma
    elif not len(timesteps):
        return latents
    else:
        # SDEdit: the latents with as much noise as they have at the first step that is done.
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped)
        canvas = scheduler.add_noise(latents, noise, timesteps[:1])
    extra: dict[str, Any] = {}
    if generators is not None and "generator" in inspect.signature(scheduler.step).parameters:
        extra["generator"] = list(generators)
    for done, timestep in enumerate(timesteps, start=1):
        scaled = scheduler.scale_model_input(canvas, timestep)  # (B, C, h, width)
        prediction = predict(unet, scaled, timestep, windows, window_width, unet_batch_size)
        canvas = scheduler.step(prediction, timestep, canvas, **extra).prev_sample
        if hook is not None:
            canvas = hook(canvas, timesteps[done] if done < len(timesteps) else None)
        if report is not None:
            report(done, len(timesteps))
    return canvas


@torch.no_grad()
def predict(
    unet: Any, canvas: Tensor, timestep: Tensor, windows: Sequence[Window], window_width: int, unet_batch_size: int
) -> Tensor:
    """Return what the UNet predicts for canvases (B, C, h, width): the weighted mean of all windows, least at their edges."""
    width = canvas.shape[-1]
    total = torch.zeros_like(canvas)
    weight = canvas.new_zeros(len(canvas), width)
    bell = _bell(window_width).to(canvas.device) if width > window_width else canvas.new_ones(window_width)
    for batch in _unet_batches(windows, unet_batch_size):
        parts = _guided(unet, _cut(canvas, batch, window_width), timestep, batch, unet_batch_size)  # (n, C, h, window)
        for window, part in zip(batch, parts, strict=True):
            columns = torch.arange(window.start, window.start + window_width, device=canvas.device) % width
            total[window.row].index_add_(-1, columns, part * bell)
            weight[window.row].index_add_(0, columns, bell)
    return total if width == window_width else total / weight[:, None, None]


def _unet_batches(windows: Sequence[Window], unet_batch_size: int) -> Iterator[list[Window]]:
    """Yield windows that fit into one call of the UNet: all guided or none, with prompts of one length."""
    kinds: dict[tuple[bool, int], list[Window]] = {}
    for window in windows:
        condition = window.condition
        kinds.setdefault((condition.guidance_scale != 1, len(condition.positive)), []).append(window)
    for alike in kinds.values():
        for first in range(0, len(alike), unet_batch_size):
            yield alike[first : first + unet_batch_size]


def _cut(canvas: Tensor, windows: Sequence[Window], window_width: int) -> Tensor:
    """Return the windows of canvases, (windows, C, h, window_width)."""
    columns = torch.arange(window_width, device=canvas.device)
    return torch.stack([canvas[window.row][..., (columns + window.start) % canvas.shape[-1]] for window in windows])


def _guided(unet: Any, parts: Tensor, timestep: Tensor, windows: Sequence[Window], unet_batch_size: int) -> Tensor:
    """Return the guided predictions of windows, float32; a batch that is not full is filled with its first window."""
    filled = [*windows, *[windows[0]] * (unet_batch_size - len(windows))]
    x = torch.cat([parts, *[parts[:1]] * (unet_batch_size - len(windows))]).to(unet.dtype)
    positive = torch.stack([window.condition.positive for window in filled]).to(x)
    if windows[0].condition.guidance_scale == 1:
        return unet(x, timestep, positive).sample.float()[: len(windows)]
    negative = torch.stack([window.condition.negative for window in filled]).to(x)
    # Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598), equation 6: both predictions in one call.
    away, towards = unet(torch.cat([x, x]), timestep, torch.cat([negative, positive])).sample.float().chunk(2)
    scales = torch.tensor([window.condition.guidance_scale for window in filled], device=x.device)
    return (away + scales[:, None, None, None] * (towards - away))[: len(windows)]


def _bell(width: int) -> Tensor:
    """Return the weights of a window's columns, (width,): a raised cosine with a floor."""
    return (torch.hann_window(width + 2, periodic=False)[1:-1]).clamp(min=_MIN_WEIGHT)


def make_scheduler(name: SchedulerName, trained: Any) -> Any:
    """Build a scheduler of diffusers on the noise schedule that the model was trained with.

    Args:
        name: Which one; `SchedulerName` names the papers.
        trained: The model's own scheduler, whose config holds the noise schedule.
    """
    import diffusers

    config = dict(trained.config)
    # With zero terminal SNR the first sigma is infinite in effect: Karras et al.'s spacing (arXiv:2206.00364, eq. 5) would
    # spend nearly all steps on pure noise.
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


def make_ddim_pair(trained: Any) -> tuple[Any, Any]:
    """Return the DDIM schedulers from noise to image and back (Song et al. 2020, arXiv:2010.02502).

    Args:
        trained: The model's own scheduler, whose config holds the noise schedule.
    """
    import diffusers

    config = dict(trained.config)
    forwards = diffusers.DDIMScheduler.from_config(config, clip_sample=False)
    return forwards, diffusers.DDIMInverseScheduler.from_config(config, clip_sample=False)
