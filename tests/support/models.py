"""Nano models on disk and in memory, and the same picture drawn by our sampler and by diffusers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.worlds import NANO_MODEL, NANO_SPECTROGRAM

from riffusion_train.config.compose import compose
from riffusion_train.config.sample import SchedulerName
from riffusion_train.config.train import TrainConfig
from riffusion_train.model.architecture import build_scheduler
from riffusion_train.model.components import Components
from riffusion_train.model.loading import make_components
from riffusion_train.model.lora import Lora, LoraLayer
from riffusion_train.sampling.modes.text import TextRequest
from riffusion_train.sampling.noise import initial_noise
from riffusion_train.sampling.sampler import Sampler

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def nano_components(*words: str, seed: int = 0) -> Components:
    """Build the nano model with the nano codec."""
    built = make_components(compose("train", TrainConfig, ["dataset=x", *NANO_MODEL, *words]).model, seed=seed)
    built.spectrogram = NANO_SPECTROGRAM
    return built


def nano_lora(components: Components, *, rank: int = 2, alpha: float = 3.0, text: bool = False) -> Lora:
    """Make random adapters for the UNet's attention, and for the text encoder's where asked."""
    generator = torch.Generator().manual_seed(7)
    layers = {}
    parts = {"unet": LORA_TARGETS} | ({"text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj")} if text else {})
    for part, targets in parts.items():
        for name, module in components.modules[part].named_modules():
            if name.endswith(targets):
                down = torch.randn(rank, module.in_features, generator=generator)
                up = torch.randn(module.out_features, rank, generator=generator)
                layers[f"{part}.{name}"] = LoraLayer(down, up, alpha)
    return Lora(layers, NANO_SPECTROGRAM, {}, "diffusers", "memory")


def predict(unet: Any) -> torch.Tensor:
    """Return what a nano UNet predicts for fixed inputs."""
    generator = torch.Generator().manual_seed(0)
    noisy, states = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 77, 16, generator=generator)
    with torch.no_grad():
        return unet(noisy, 500, states).sample


def sampler_picture(source: Path, prompt: str = "a band", seed: int = 3) -> np.ndarray:
    """Draw a picture with our sampler: uint8 (height, width)."""
    sampler = Sampler.load(source, device="cpu", scheduler=SchedulerName.ddim, num_inference_steps=3)
    return sampler.images([TextRequest(prompt=prompt, seed=seed)])[0]


def pipeline_picture(pipeline: Any, prompt: str = "a band", seed: int = 3) -> np.ndarray:
    """Draw the same picture with diffusers' pipeline, from the same noise with the same solver."""
    from diffusers import DDIMScheduler

    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    noise = initial_noise(seed, (4, 8, 8))[None]
    drawn = pipeline(prompt, num_inference_steps=3, guidance_scale=7.0, latents=noise, output_type="np").images[0]
    return np.round(np.round(drawn * 255).mean(axis=2)).astype(np.uint8)


def velocity_scheduler() -> Any:
    """Return the scheduler of a model that predicts velocity."""
    return build_scheduler("v_prediction")
