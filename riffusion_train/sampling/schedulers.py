"""The solvers of the denoising equation, from diffusers, and where on the noise schedule their steps are."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from riffusion_train.config.denoising import SchedulerName, TimestepSpacing
from riffusion_train.runtime.errors import InputError

_KARRAS = (SchedulerName.dpmsolver, SchedulerName.dpmsolver_sde, SchedulerName.unipc, SchedulerName.euler)
_AYS = (SchedulerName.dpmsolver, SchedulerName.dpmsolver_sde, SchedulerName.euler)

AYS_SIGMAS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
"""Noise levels of 10 steps for Stable Diffusion 1.5 (Sabour et al. 2024, arXiv:2404.14507), as NVIDIA published them; the
solver's last step goes from the last but one to none."""


def check_spacing(name: SchedulerName, spacing: TimestepSpacing) -> None:
    """Check that a solver can take its steps at these places.

    Raises:
        InputError: If it cannot.
    """
    if spacing is TimestepSpacing.karras:
        able: Sequence[SchedulerName] = _KARRAS
    elif spacing is TimestepSpacing.ays:
        able = _AYS
    elif spacing is TimestepSpacing.model:
        return
    else:
        able = [one for one in SchedulerName if one is not SchedulerName.lcm]
    if name not in able:
        names = ", ".join(one.value for one in able)
        raise InputError(f"timesteps={spacing.value}: scheduler={name.value} cannot; choose a scheduler from: {names}")


def make_scheduler(name: SchedulerName, trained: Any, spacing: TimestepSpacing = TimestepSpacing.model) -> Any:
    """Build a scheduler of diffusers on the noise schedule that the model was trained with.

    Args:
        name: Which one; `SchedulerName` names the papers.
        trained: The model's own scheduler, whose config holds the noise schedule.
        spacing: Where the steps are; `ays` is set with the number of steps, by `set_steps`.

    Raises:
        InputError: If the solver cannot take its steps there.
    """
    import diffusers

    check_spacing(name, spacing)
    config = dict(trained.config)
    # Given apart from the config: what that holds only because it is a default, diffusers replaces by defaults of its own.
    even = spacing in (TimestepSpacing.leading, TimestepSpacing.trailing, TimestepSpacing.linspace)
    options: dict[str, Any] = {"timestep_spacing": spacing.value} if even else {}
    # With zero terminal SNR the first sigma is infinite in effect: Karras et al.'s spacing (arXiv:2206.00364, eq. 5) would
    # spend nearly all steps on pure noise.
    zero_snr = config.get("rescale_betas_zero_snr", False)
    karras = {"use_karras_sigmas": spacing is TimestepSpacing.karras and not zero_snr, **options}
    if name is SchedulerName.ddim:
        return diffusers.DDIMScheduler.from_config(config, clip_sample=False, **options)
    if name is SchedulerName.euler:
        return diffusers.EulerDiscreteScheduler.from_config(config, **karras)
    if name is SchedulerName.euler_a:
        return diffusers.EulerAncestralDiscreteScheduler.from_config(config, **options)
    if name is SchedulerName.unipc:
        return diffusers.UniPCMultistepScheduler.from_config(config, **karras)
    if name is SchedulerName.lcm:
        return diffusers.LCMScheduler.from_config(config, clip_sample=False)
    algorithm = "sde-dpmsolver++" if name is SchedulerName.dpmsolver_sde else "dpmsolver++"
    return diffusers.DPMSolverMultistepScheduler.from_config(config, algorithm_type=algorithm, **karras)


def set_steps(
    scheduler: Any, num_inference_steps: int, spacing: TimestepSpacing, device: torch.device | None = None
) -> None:
    """Set the steps of a scheduler, which forgets what it has done before."""
    if spacing is TimestepSpacing.ays:
        scheduler.set_timesteps(timesteps=ays_timesteps(scheduler.alphas_cumprod, num_inference_steps), device=device)
    else:
        scheduler.set_timesteps(num_inference_steps, device=device)


def ays_timesteps(alphas_cumprod: Tensor, num_inference_steps: int) -> list[int]:
    """Return Align Your Steps' timesteps for any number of steps, the noisiest first.

    NVIDIA's noise levels are interpolated on a straight line in their logarithms, and each becomes the timestep of the model's
    own schedule that has it.

    Args:
        alphas_cumprod: alpha² at every timestep, (timesteps,).
        num_inference_steps: Number of steps.

    Raises:
        InputError: If there are more steps than timesteps.
    """
    if num_inference_steps > len(alphas_cumprod):
        raise InputError(f"num_inference_steps={num_inference_steps}: must be at most {len(alphas_cumprod)}")
    places = np.linspace(0, 1, num_inference_steps + 1)[:-1]
    logs = np.interp(places, np.linspace(0, 1, len(AYS_SIGMAS)), np.log(AYS_SIGMAS))
    squares = alphas_cumprod.double().cpu().numpy().clip(1e-12, 1 - 1e-12)
    known = 0.5 * np.log((1 - squares) / squares)  # the logarithm of sigma at every timestep, ascending
    timesteps = np.rint(np.interp(logs, known, np.arange(len(known)))).astype(int)
    timesteps[0] = len(known) - 1  # all noise, whatever the last noise level of this model is
    # Very many steps would share timesteps; every one must be below the one before.
    for index in range(1, len(timesteps)):
        lowest = len(timesteps) - 1 - index  # leaves one timestep for each of the steps to come
        timesteps[index] = min(max(timesteps[index], lowest), timesteps[index - 1] - 1)
    return timesteps.tolist()


def takes_noise(scheduler: Any) -> bool:
    """Whether a solver adds noise that can be given to it, rather than drawn from a generator."""
    return str(scheduler.config.get("algorithm_type", "")).startswith("sde-")


def takes_generator(scheduler: Any) -> bool:
    """Whether a solver draws noise from a generator."""
    return not takes_noise(scheduler) and "generator" in inspect.signature(scheduler.step).parameters


def make_ddim_pair(trained: Any) -> tuple[Any, Any]:
    """Return the DDIM schedulers from noise to image and back (Song et al. 2020, arXiv:2010.02502).

    Args:
        trained: The model's own scheduler, whose config holds the noise schedule.
    """
    import diffusers

    config = dict(trained.config)
    forwards = diffusers.DDIMScheduler.from_config(config, clip_sample=False)
    return forwards, diffusers.DDIMInverseScheduler.from_config(config, clip_sample=False)
