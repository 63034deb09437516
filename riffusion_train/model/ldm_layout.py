"""The names of Stable Diffusion 1.5's weights in the original LDM layout, which A1111, Forge and ComfyUI read.

The names follow from the architecture (CompVis/latent-diffusion `openaimodel.py`, `model.py`): the UNet's levels become one
row of numbered blocks, the VAE's decoder counts its levels from the outside in, and CLIP sits under `cond_stage_model`.
"""

import dataclasses
from typing import Any

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "cond_stage_model.transformer.text_model."
POSITION_IDS = CLIP_PREFIX + "embeddings.position_ids"
"""A constant that the original layout keeps as a weight."""
PART_PREFIXES = {"unet": UNET_PREFIX, "vae": VAE_PREFIX, "text_encoder": "cond_stage_model.transformer."}

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_PROJECTIONS = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")


@dataclasses.dataclass(frozen=True)
class LdmName:
    """Where one weight is kept."""

    key: str
    """Its name in the LDM layout."""
    as_convolution: bool = False
    """Whether a matrix (out, in) is kept as a 1 x 1 convolution (out, in, 1, 1): the attention of the VAE."""


def ldm_names(modules: dict[str, Any]) -> dict[str, dict[str, LdmName]]:
    """Return the LDM name of every weight.

    Args:
        modules: `unet`, `vae` and `text_encoder` of any size; they may be on the meta device.

    Returns:
        By part and by the name of the weight in its network.
    """
    names: dict[str, dict[str, LdmName]] = {"unet": {}, "vae": {}, "text_encoder": {}}
    blocks = _unet_blocks(modules["unet"].config)
    for name in modules["unet"].state_dict():
        prefix, inner, rest = _split(name, blocks)
        names["unet"][name] = LdmName(UNET_PREFIX + _joined(prefix, _renamed(rest, inner)))
    blocks = _vae_blocks(modules["vae"].config)
    for name in modules["vae"].state_dict():
        prefix, inner, rest = _split(name, blocks)
        as_convolution = inner is _VAE_ATTENTION and rest in _VAE_PROJECTIONS
        names["vae"][name] = LdmName(VAE_PREFIX + _joined(prefix, _renamed(rest, inner)), as_convolution)
    for name in modules["text_encoder"].state_dict():
        names["text_encoder"][name] = LdmName(CLIP_PREFIX + name.removeprefix("text_model."))
    return names


Blocks = dict[str, tuple[str, dict[str, str]]]
"""From a block's name in diffusers to its LDM name and the names of the layers inside."""


def _unet_blocks(config: Any) -> Blocks:
    layers, levels = config.layers_per_block, len(config.block_out_channels)
    blocks: Blocks = {
        "time_embedding.linear_1": ("time_embed.0", {}),
        "time_embedding.linear_2": ("time_embed.2", {}),
        "conv_in": ("input_blocks.0.0", {}),
        "conv_norm_out": ("out.0", {}),
        "conv_out": ("out.2", {}),
        "mid_block.resnets.0": ("middle_block.0", _UNET_RESNET),
        "mid_block.attentions.0": ("middle_block.1", {}),
        "mid_block.resnets.1": ("middle_block.2", _UNET_RESNET),
    }
    place = 1
    for level, kind in enumerate(config.down_block_types):
        for layer in range(layers):
            blocks[f"down_blocks.{level}.resnets.{layer}"] = (f"input_blocks.{place}.0", _UNET_RESNET)
            if kind.startswith("CrossAttn"):
                blocks[f"down_blocks.{level}.attentions.{layer}"] = (f"input_blocks.{place}.1", {})
            place += 1
        if level < levels - 1:
            blocks[f"down_blocks.{level}.downsamplers.0.conv"] = (f"input_blocks.{place}.0.op", {})
            place += 1
    place = 0
    for level, kind in enumerate(config.up_block_types):
        attends = kind.startswith("CrossAttn")
        for layer in range(layers + 1):
            blocks[f"up_blocks.{level}.resnets.{layer}"] = (f"output_blocks.{place}.0", _UNET_RESNET)
            if attends:
                blocks[f"up_blocks.{level}.attentions.{layer}"] = (f"output_blocks.{place}.1", {})
            if layer == layers and level < levels - 1:
                blocks[f"up_blocks.{level}.upsamplers.0"] = (f"output_blocks.{place}.{1 + attends}", {})
            place += 1
    return blocks


def _vae_blocks(config: Any) -> Blocks:
    layers, levels = config.layers_per_block, len(config.block_out_channels)
    blocks: Blocks = {"quant_conv": ("quant_conv", {}), "post_quant_conv": ("post_quant_conv", {})}
    for side, direction, num_layers in (("encoder", "down", layers), ("decoder", "up", layers + 1)):
        blocks[f"{side}.conv_in"] = (f"{side}.conv_in", {})
        blocks[f"{side}.conv_norm_out"] = (f"{side}.norm_out", {})
        blocks[f"{side}.conv_out"] = (f"{side}.conv_out", {})
        blocks[f"{side}.mid_block.resnets.0"] = (f"{side}.mid.block_1", _VAE_RESNET)
        blocks[f"{side}.mid_block.attentions.0"] = (f"{side}.mid.attn_1", _VAE_ATTENTION)
        blocks[f"{side}.mid_block.resnets.1"] = (f"{side}.mid.block_2", _VAE_RESNET)
        for level in range(levels):
            here = f"{side}.{direction}.{level if direction == 'down' else levels - 1 - level}"
            there = f"{side}.{direction}_blocks.{level}"
            for layer in range(num_layers):
                blocks[f"{there}.resnets.{layer}"] = (f"{here}.block.{layer}", _VAE_RESNET)
            blocks[f"{there}.{direction}samplers.0"] = (f"{here}.{direction}sample", {})
    return blocks


def _split(name: str, blocks: Blocks) -> tuple[str, dict[str, str], str]:
    """Split a weight's name behind its block: the block's LDM name, its inner names, and the rest."""
    words = name.split(".")
    for length in range(len(words) - 1, 0, -1):
        found = blocks.get(".".join(words[:length]))
        if found is not None:
            return (*found, ".".join(words[length:]))
    raise ValueError(f"the LDM layout has no place for {name}")


def _renamed(rest: str, inner: dict[str, str]) -> str:
    for ours, theirs in inner.items():
        if rest.startswith(ours + "."):
            return theirs + rest[len(ours) :]
    return rest


def _joined(prefix: str, rest: str) -> str:
    return f"{prefix}.{rest}"
