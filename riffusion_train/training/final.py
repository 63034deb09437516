"""The final model of a run: measured, written beside, and renamed into place."""

import shutil
from pathlib import Path
from typing import Any

import torch

from riffusion_train.config.spectrogram import write_spectrogram
from riffusion_train.dataset.order import generator
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.model.components import Components
from riffusion_train.model.diffusers_folder import write_components
from riffusion_train.model.lora import LORA_FILE, adapter_weights, from_peft, write_diffusers_lora

_MEASURED_SLICES = 256


@torch.no_grad()
def measure_scaling_factor(vae: Any, table: SpectrogramDataset, *, latent_std: float, seed: int) -> float:
    """Set the VAE's `scaling_factor` and return it.

    Unit deviation is usual (Rombach et al. 2022, appendix G). Smaller latents shift the noise schedule towards noise without
    another schedule (Chen 2023, arXiv:2301.10972): what fills the whole picture, such as the register of a clip, shows through
    the noise of nearly every timestep otherwise, and is hardly ever learned from the caption.

    Args:
        vae: The trained VAE.
        table: The slices to measure.
        latent_std: The standard deviation of the scaled latents.
        seed: Chooses the slices.
    """
    count = min(_MEASURED_SLICES, len(table))
    chosen = generator(seed, "scaling factor").permutation(len(table))[:count]
    latents = [vae.encode(table.pixels(int(index))[None].to(vae.device)).latent_dist.mode() for index in chosen]
    factor = latent_std / float(torch.cat(latents).float().std())
    vae.register_to_config(scaling_factor=factor)
    return factor


def write_final(target: Path, components: Components, *, lora_alpha: float | None) -> None:
    """Write the model that a run ends with: a whole diffusers folder, or the adapters of a LoRA run.

    Args:
        target: The folder.
        components: The model.
        lora_alpha: The scale of the adapters times their rank; None where there are none.
    """
    partial = target.with_name(f".partial-{target.name}")
    if partial.exists():
        shutil.rmtree(partial)
    if lora_alpha is None:
        write_components(partial, components)
    else:
        write_lora(partial, components, lora_alpha)
    partial.rename(target)


def write_lora(folder: Path, components: Components, alpha: float) -> None:
    """Write the adapters as `pytorch_lora_weights.safetensors` in diffusers' layout, with `spectrogram.json`."""
    folder.mkdir(parents=True)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in adapter_weights(components).items()}
    lora = from_peft(weights, alpha, components.spectrogram, components.source)
    write_diffusers_lora(folder / LORA_FILE, lora, extra={})
    if components.spectrogram is not None:
        write_spectrogram(folder, components.spectrogram)
