"""The method of a run: which weights are trained, and the model that is written in the end."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from riffusion_train.config.spectrogram import write_spectrogram
from riffusion_train.config.train import MethodName, TrainConfig
from riffusion_train.dataset.layout import DatasetFolder
from riffusion_train.dataset.order import generator
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.model.architecture import trained_scheduler
from riffusion_train.model.components import Components, freeze, unfreeze
from riffusion_train.model.diffusers_folder import write_components
from riffusion_train.model.lora import (
    LORA_FILE,
    adapter_weights,
    add_lora,
    from_peft,
    lora_scale_alpha,
    write_diffusers_lora,
)
from riffusion_train.runtime.errors import InputError


def unfreeze_vae(vae: nn.Module, *, encoder: bool) -> None:
    """Make the VAE's decoder trainable, and its encoder too where asked."""
    if encoder:
        unfreeze(vae)
        return
    for part in ("decoder", "post_quant_conv"):
        unfreeze(getattr(vae, part))


def apply_method(config: TrainConfig, folder: DatasetFolder, base: Components) -> Components:
    """Fit the model to the dataset, and choose its trainable weights."""
    components = dataclasses.replace(base, spectrogram=folder.spectrogram)
    _check_size(components, folder)
    components.scheduler = trained_scheduler(
        components.scheduler,
        prediction_type=config.objective.prediction_type.value,
        rescale_betas_zero_snr=config.objective.rescale_betas_zero_snr,
    )
    freeze(components)
    # Convolutions in this layout are a sixth of the step faster on a CPU, and what tensor cores want on a GPU.
    components.unet.to(memory_format=torch.channels_last)
    method = config.method
    if method.name is not MethodName.vae:
        components.vae.to(memory_format=torch.channels_last)
    if method.name is MethodName.vae:
        unfreeze_vae(components.vae, encoder=method.train_vae_encoder)
    elif method.name is MethodName.lora:
        _add_adapters(config, components)
    else:
        unfreeze(components.unet)
        if method.train_text_encoder:
            unfreeze(components.text_encoder)
    trained = components.vae if method.name is MethodName.vae else components.unet
    if config.gradient_checkpointing:
        trained.enable_gradient_checkpointing()
    if config.compile and method.name is not MethodName.vae:
        trained.compile(fullgraph=True)  # in place: the names of the weights stay
    return components


def _add_adapters(config: TrainConfig, components: Components) -> None:
    method = config.method
    options: dict[str, Any] = {
        "rank": method.lora_rank,
        "alpha": method.lora_alpha,
        "use_dora": method.lora_use_dora,
        "use_rslora": method.lora_use_rslora,
    }
    add_lora(
        components.unet, target_modules=method.lora_target_modules, target_blocks=method.lora_target_blocks, **options
    )
    if method.train_text_encoder:
        options["key"] = "method.lora_text_encoder_target_modules"
        add_lora(components.text_encoder, target_modules=method.lora_text_encoder_target_modules, **options)


def adapter_alpha(config: TrainConfig) -> float | None:
    """Return the alpha that says how strongly the exported adapters apply, or None where there are none."""
    method = config.method
    if method.name is not MethodName.lora:
        return None
    return lora_scale_alpha(rank=method.lora_rank, alpha=method.lora_alpha, use_rslora=method.lora_use_rslora)


def _check_size(components: Components, folder: DatasetFolder) -> None:
    """Refuse pictures that the networks cannot halve as often as they must."""
    multiple = components.downsampling * 2 ** (len(components.unet.config.block_out_channels) - 1)
    height, width = folder.spectrogram.n_mels, folder.spectrogram.width_px
    if height % multiple or width % multiple:
        raise InputError(
            f"{folder.path}: its pictures are {width} x {height}, the model needs multiples of {multiple}; prepare the "
            "audio with another spectrogram preset, or take a smaller model"
        )


_MEASURED_SLICES = 256


@torch.no_grad()
def measure_scaling_factor(vae: Any, dataset: SpectrogramDataset, *, latent_std: float, seed: int) -> float:
    """Set the VAE's `scaling_factor` and return it.

    Unit deviation is usual (Rombach et al. 2022, appendix G). Smaller latents shift the noise schedule towards noise without
    another schedule (Chen 2023, arXiv:2301.10972): what fills the whole picture, such as the register of a clip, shows through
    the noise of nearly every timestep otherwise, and is hardly ever learned from the caption.

    Args:
        vae: The trained VAE.
        dataset: The slices to measure.
        latent_std: The standard deviation of the scaled latents.
        seed: Chooses the slices.
    """
    count = min(_MEASURED_SLICES, len(dataset))
    chosen = generator(seed, "scaling factor").permutation(len(dataset))[:count]
    latents = [vae.encode(dataset.pixels(int(index))[None].to(vae.device)).latent_dist.mode() for index in chosen]
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
