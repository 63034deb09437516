"""Fitting the model to the dataset, and choosing its trainable weights."""

import dataclasses
from typing import Any

import torch
from torch import nn

from riffusion_train.config.train import MethodName, TrainConfig
from riffusion_train.dataset.layout import DatasetFolder
from riffusion_train.model.architecture import trained_scheduler
from riffusion_train.model.components import Components, freeze, unfreeze
from riffusion_train.model.lora import add_lora, lora_scale_alpha
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
