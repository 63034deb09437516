"""The denoising loop: from noise and captions to latents, with classifier-free guidance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from riffusion_train.config.sample import SchedulerName
from riffusion_train.dataset.draws import normal

StepReport = Callable[[int, int], None]
"""Called with denoising steps done and in all."""


def make_scheduler(name: SchedulerName, trained: Any) -> Any:
    """Build the solver that `name` stands for, on the noise schedule that the model was trained with."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

    config = dict(trained.config)
    if name is SchedulerName.ddim:
        return DDIMScheduler.from_config(config, clip_sample=False)
    if name is SchedulerName.euler:
        return EulerDiscreteScheduler.from_config(config)
    # From pure noise, whose sigma has no end, Karras's steps would nearly all be spent where there is nothing to see.
    karras = not config.get("rescale_betas_zero_snr", False)
    return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++", use_karras_sigmas=karras)


def initial_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Return the noise that a seed stands for: float32 (C, h, w), the same on every device and in every batch."""
    return torch.from_numpy(normal(seed, "initial noise", shape))


@torch.no_grad()
def encode_prompts(tokenizer: Any, text_encoder: Any, texts: list[str]) -> Tensor:
    """Return the text encoder's hidden states for a list of texts: (B, 77, D)."""
    ids = tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )["input_ids"]
    return text_encoder(ids.to(text_encoder.device)).last_hidden_state


@torch.no_grad()
def denoise(
    unet: Any,
    scheduler: Any,
    noise: Tensor,
    prompt_states: Tensor,
    negative_states: Tensor,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    report: StepReport | None = None,
) -> Tensor:
    """Denoise with classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598).

    Args:
        unet: The denoiser.
        scheduler: A diffusers solver; its state is reset.
        noise: Standard normal start (B, C, h, w).
        prompt_states: Hidden states of the prompts (B, 77, D).
        negative_states: Hidden states of what to lead away from (B, 77, D).
        guidance_scale: How far to lead away; 1 is not at all and costs half.
        num_inference_steps: Solver steps.
        report: Told about every step.

    Returns:
        Latents (B, C, h, w), still in the UNet's scale.
    """
    guided = guidance_scale != 1
    states = torch.cat([negative_states, prompt_states]) if guided else prompt_states
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    latents = noise * scheduler.init_noise_sigma
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        doubled = torch.cat([latents, latents]) if guided else latents
        prediction = unet(scheduler.scale_model_input(doubled, timestep), timestep, states).sample
        if guided:
            away, towards = prediction.chunk(2)
            prediction = away + guidance_scale * (towards - away)
        latents = scheduler.step(prediction, timestep, latents).prev_sample
        if report is not None:
            report(done, len(scheduler.timesteps))
    return latents
