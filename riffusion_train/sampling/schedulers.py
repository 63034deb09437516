"""The solvers of the denoising equation."""

from typing import Any

from riffusion_train.config.sample import SchedulerName


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
