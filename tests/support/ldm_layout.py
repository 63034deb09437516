"""Write a model in the original LDM key layout, as single-file checkpoints keep it: the reverse of what is read."""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file

from riffusion_train.model.components import Components

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_single_file(path: Path, components: Components, metadata: dict[str, str] | None = None) -> None:
    """Write `components` as one safetensors file in the LDM layout."""
    tensors = {}
    for name, tensor in components.unet.state_dict().items():
        key = _unet_key(name, components.unet.config.layers_per_block)
        level = int(name.split(".")[1]) if name.startswith("up_blocks") else 0
        attends = name.startswith("up_blocks") and hasattr(components.unet.up_blocks[level], "attentions")
        tensors["model.diffusion_model." + key.replace("UPSAMPLE", "2" if attends else "1")] = tensor
    for name, tensor in components.vae.state_dict().items():
        key = _vae_key(name, len(components.vae.config.block_out_channels))
        as_convolution = ".attn_1." in key and tensor.ndim == 2
        tensors["first_stage_model." + key] = tensor[..., None, None] if as_convolution else tensor
    for name, tensor in components.text_encoder.state_dict().items():
        tensors["cond_stage_model.transformer.text_model." + name.removeprefix("text_model.")] = tensor
    positions = torch.arange(77)[None]
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = positions
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)


def _unet_key(name: str, layers: int) -> str:
    for ours, theirs in _UNET_TOP.items():
        if name.startswith(ours + "."):
            return theirs + name[len(ours) :]
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, index, rest = found.groups()
        place = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{place}.{_resnet(rest) if kind == 'resnets' else rest}"
    found = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name)
    assert found, name
    side, level, kind, index, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return f"input_blocks.{(layers + 1) * (level + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{(layers + 1) * level + layers}.UPSAMPLE.{rest}"
    block = (
        f"input_blocks.{(layers + 1) * level + index + 1}"
        if side == "down"
        else f"output_blocks.{(layers + 1) * level + index}"
    )
    return f"{block}.0.{_resnet(rest)}" if kind == "resnets" else f"{block}.1.{rest}"


def _resnet(rest: str) -> str:
    part, _, kind = rest.partition(".")
    return f"{_UNET_RESNET[part]}.{kind}"


def _vae_key(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if found := re.match(r"(.*)mid_block\.resnets\.(\d)\.(.*)", name):
        return f"{found[1]}mid.block_{int(found[2]) + 1}.{found[3]}"
    if found := re.match(r"(.*)mid_block\.attentions\.0\.(.*)\.(weight|bias)", name):
        return f"{found[1]}mid.attn_1.{_VAE_ATTENTION[found[2]]}.{found[3]}"
    found = re.match(r"(encoder|decoder)\.(down|up)_blocks\.(\d)\.(resnets|downsamplers|upsamplers)\.(\d)\.(.*)", name)
    if not found:
        return name
    side, direction, level, kind, index, rest = found.groups()
    place = int(level) if direction == "down" else levels - 1 - int(level)
    if kind == "resnets":
        return f"{side}.{direction}.{place}.block.{index}.{rest}"
    return f"{side}.{direction}.{place}.{direction}sample.{rest}"
