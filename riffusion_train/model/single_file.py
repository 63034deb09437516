"""Read Stable Diffusion 1.5 from one `.safetensors` file in the original LDM key layout, without the network."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from riffusion_train.config.errors import InputError
from riffusion_train.config.model import ModelConfig, ModelName
from riffusion_train.config.spectrogram import SpectrogramConfig, from_data
from riffusion_train.model.build import make_components
from riffusion_train.model.tokenizer import build_tokenizer

METADATA_KEY = "spectrogram"
"""Key of the codec's JSON in the file's metadata."""

_POSITION_IDS = "embeddings.position_ids"  # a constant that old versions of transformers saved as a weight
_SD15 = ModelConfig(name=ModelName.random)


def read_metadata_spectrogram(path: Path) -> SpectrogramConfig | None:
    """Read the codec parameters from the metadata of a safetensors file; None where it has none."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA_KEY)
    return None if text is None else from_data(json.loads(text), f"{path} (metadata)")


def load_single_file(path: Path, sizes: ModelConfig = _SD15) -> dict[str, Any]:
    """Load the parts of a model from an LDM-layout file.

    Args:
        path: The `.safetensors` file.
        sizes: The architecture that the file must fit exactly; Stable Diffusion 1.5 unless told otherwise.

    Returns:
        The keyword arguments `vae`, `text_encoder`, `unet`, `tokenizer` and `scheduler` of `Components`.

    Raises:
        InputError: If keys are missing, left over, or of another shape: the file holds another architecture.
    """
    from diffusers.loaders.single_file_utils import (
        convert_ldm_clip_checkpoint,
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
    )
    from safetensors.torch import load_file

    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    if "model.diffusion_model.input_blocks.0.0.weight" not in tensors:
        raise InputError(f"{path}: no model.diffusion_model.* weights; this is not a whole Stable Diffusion model")
    with torch.device("meta"):
        empty = make_components(dataclasses.replace(sizes, name=ModelName.random), seed=0)
    clip = convert_ldm_clip_checkpoint(dict(tensors))
    clip = {name.removeprefix("text_model."): tensor for name, tensor in clip.items()}
    clip.pop(_POSITION_IDS, None)
    _fill(path, "text encoder", empty.text_encoder, clip)
    _fill(path, "VAE", empty.vae, convert_ldm_vae_checkpoint(dict(tensors), dict(empty.vae.config)))
    _fill(path, "UNet", empty.unet, convert_ldm_unet_checkpoint(dict(tensors), dict(empty.unet.config)))
    return {
        "vae": empty.vae,
        "text_encoder": empty.text_encoder,
        "unet": empty.unet,
        "tokenizer": build_tokenizer(),
        "scheduler": empty.scheduler,
    }


def _fill(path: Path, part: str, module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Give `module`, which lies on the meta device, exactly these weights."""
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    odd = sorted(set(wanted) ^ set(weights))
    odd += sorted(name for name in set(wanted) & set(weights) if wanted[name] != weights[name].shape)
    if odd:
        raise InputError(
            f"{path}: its {part} is not Stable Diffusion 1.5's ({len(odd)} keys missing, left over or of another "
            f"shape, the first: {odd[0]})"
        )
    module.load_state_dict(weights, strict=True, assign=True)
    _materialise_buffers(module)


def _materialise_buffers(module: nn.Module) -> None:
    """Replace the non-persistent buffers, which no checkpoint holds, by real ones: CLIP's position ids."""
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.is_meta:
                if name != "position_ids":
                    raise RuntimeError(f"no value known for the buffer {name} of {type(owner).__name__}")
                owner.register_buffer(name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False)
