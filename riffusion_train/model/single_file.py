"""Stable Diffusion 1.5 in one file in the original LDM key layout, which A1111, Forge and ComfyUI read."""

import dataclasses
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from riffusion_train.config.denoising import read_recommended
from riffusion_train.config.model import ModelConfig, ModelName
from riffusion_train.config.spectrogram import SpectrogramConfig, from_data, to_data
from riffusion_train.model.components import (
    Components,
    build_components,
    build_scheduler,
    build_skeleton,
    build_tokenizer,
    empty_networks,
    is_standard,
    scheduler_class,
    trained_scheduler,
)
from riffusion_train.model.detect import detect_file, require_sd1
from riffusion_train.model.diffusers_folder import SUMMARY_KEY, dataset_of, suggested_prompts
from riffusion_train.model.weights import (
    LazyModel,
    LazyTensor,
    as_convolution,
    as_matrix,
    in_memory,
    match_weights,
    open_pickle,
    open_tensors,
    shortened,
    write_tensors,
)
from riffusion_train.runtime.errors import InputError

METADATA_KEY = "spectrogram"
"""Key of the codec's JSON in the file's metadata."""
CONFIGS_KEY = "diffusers_configs"
"""Key of the networks' and the scheduler's configs in the file's metadata."""

_SD15 = ModelConfig(name=ModelName.random)
_SCHEDULE_BUFFERS = {
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "logvar",
    "lvlb_weights",
    "scale_factor",
}
"""Numbers of the noise schedule that old checkpoints keep beside the weights; they follow from SD 1.x's schedule."""

V_PREDICTION_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
"""Names of empty tensors by which other programs know a model that predicts velocity, and one whose last step is pure noise."""

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


_LDM_CONFIG = """model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "{velocity}"
    linear_start: {beta_start}
    linear_end: {beta_end}
    num_timesteps_cond: 1
    timesteps: {timesteps}
    first_stage_key: jpg
    cond_stage_key: txt
    image_size: 64
    channels: {channels}
    cond_stage_trainable: false
    conditioning_key: crossattn
    scale_factor: {scale_factor}
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 32
        in_channels: {channels}
        out_channels: {channels}
        model_channels: {width}
        attention_resolutions: {resolutions}
        num_res_blocks: {layers}
        channel_mult: {multiples}
        num_heads: {heads}
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: {text_width}
        use_checkpoint: true
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: {channels}
        ddconfig:
          double_z: true
          z_channels: {channels}
          resolution: 256
          in_channels: 3
          out_ch: 3
          ch: {vae_width}
          ch_mult: {vae_multiples}
          num_res_blocks: {vae_layers}
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
"""


@dataclasses.dataclass(frozen=True)
class LdmName:
    """The name of one weight in the LDM layout."""

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
        names["unet"][name] = LdmName(f"{UNET_PREFIX}{prefix}.{_renamed(rest, inner)}")
    blocks = _vae_blocks(modules["vae"].config)
    for name in modules["vae"].state_dict():
        prefix, inner, rest = _split(name, blocks)
        as_convolution = inner is _VAE_ATTENTION and rest in _VAE_PROJECTIONS
        names["vae"][name] = LdmName(f"{VAE_PREFIX}{prefix}.{_renamed(rest, inner)}", as_convolution)
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
    number = 1  # of the block in LDM's flat list; 0 is conv_in
    for level, kind in enumerate(config.down_block_types):
        for layer in range(layers):
            blocks[f"down_blocks.{level}.resnets.{layer}"] = (f"input_blocks.{number}.0", _UNET_RESNET)
            if kind.startswith("CrossAttn"):
                blocks[f"down_blocks.{level}.attentions.{layer}"] = (f"input_blocks.{number}.1", {})
            number += 1
        if level < levels - 1:
            blocks[f"down_blocks.{level}.downsamplers.0.conv"] = (f"input_blocks.{number}.0.op", {})
            number += 1
    number = 0
    for level, kind in enumerate(config.up_block_types):
        attends = kind.startswith("CrossAttn")
        for layer in range(layers + 1):
            blocks[f"up_blocks.{level}.resnets.{layer}"] = (f"output_blocks.{number}.0", _UNET_RESNET)
            if attends:
                blocks[f"up_blocks.{level}.attentions.{layer}"] = (f"output_blocks.{number}.1", {})
            if layer == layers and level < levels - 1:
                blocks[f"up_blocks.{level}.upsamplers.0"] = (f"output_blocks.{number}.{1 + attends}", {})
            number += 1
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
    """Split a weight's name after its block: the block's LDM name, its inner names, and the rest."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        block = blocks.get(".".join(parts[:length]))
        if block is not None:
            return (*block, ".".join(parts[length:]))
    raise ValueError(f"the LDM layout has no name for {name}")


def _renamed(rest: str, inner: dict[str, str]) -> str:
    for ours, theirs in inner.items():
        if rest.startswith(ours + "."):
            return theirs + rest[len(ours) :]
    return rest


def open_single_file(path: Path, *, allow_pickle: bool = False) -> LazyModel:
    """Open a single-file model.

    Args:
        path: A `.safetensors` file; a `.ckpt` only where allowed.
        allow_pickle: Whether a pickle may be read, with torch's restricted unpickler.

    Raises:
        InputError: If it is a pickle, damaged, another kind of model, or if keys are missing, unexpected or of another shape.
    """
    if path.suffix == ".safetensors":
        weights, metadata = open_tensors(path)
    elif allow_pickle:
        weights, metadata = open_pickle(path), {}
    else:
        raise InputError(
            f"{path}: only .safetensors files are read (a {path.suffix or 'nameless'} file is a pickle that can run code); "
            "riffusion import … allow_pickle=true converts one that you trust"
        )
    require_sd1(str(path), detect_file({name: tensor.shape for name, tensor in weights.items()}))
    skeleton = _skeleton(path, metadata, {V_PREDICTION_MARK, ZERO_SNR_MARK} & set(weights))
    weights = {_normalised(name): tensor for name, tensor in weights.items() if not is_ignorable(name)}
    tensors: dict[str, dict[str, LazyTensor]] = {}
    for part, names in ldm_names(skeleton.modules).items():
        name_of = {ldm.key: name for name, ldm in names.items()}
        convolutions = {ldm.key for ldm in names.values() if ldm.as_convolution}
        named = {}
        for key in [key for key in weights if key.startswith(PART_PREFIXES[part])]:
            tensor = weights.pop(key)
            is_convolution = key in convolutions and len(tensor.shape) == 4
            named[name_of.get(key, key)] = as_matrix(tensor) if is_convolution else tensor
        tensors[part] = match_weights(str(path), part.replace("_", " "), skeleton.modules[part], named)
    if weights:
        raise InputError(f"{path}: {len(weights)} unexpected keys: {shortened(weights)}; this is not plain SD 1.x")
    return LazyModel(skeleton, tensors)


def write_single_file(
    path: Path, model: LazyModel, *, dtype: torch.dtype | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a model as one file in the LDM layout, tensor by tensor, with codec and configs in its metadata.

    Raises:
        InputError: If the model has another tokenizer than Stable Diffusion 1.5, which a single file cannot carry.
    """
    parts = model.skeleton
    if not is_standard(parts.tokenizer):
        raise InputError(
            f"{parts.source}: has a tokenizer of its own, which a single file cannot carry; format=diffusers can"
        )
    tensors: dict[str, LazyTensor] = {}
    names = ldm_names(parts.modules)
    for part, weights in model.tensors.items():
        by_name = {name.removeprefix("text_model."): ldm for name, ldm in names[part].items()}
        for name, tensor in weights.items():
            ldm = by_name[name]
            tensors[ldm.key] = as_convolution(tensor) if ldm.as_convolution else tensor
    positions = int(parts.text_encoder.config.max_position_embeddings)
    tensors[POSITION_IDS] = in_memory(torch.arange(positions)[None])
    velocity, zero_snr = _target(parts)
    if velocity:
        tensors[V_PREDICTION_MARK] = in_memory(torch.empty(0))
    if zero_snr:
        tensors[ZERO_SNR_MARK] = in_memory(torch.empty(0))
    texts = {"format": "pt", CONFIGS_KEY: json.dumps(part_configs(parts)), **(metadata or {})}
    if parts.spectrogram is not None:
        texts[METADATA_KEY] = json.dumps(to_data(parts.spectrogram))
    write_tensors(path, tensors, dtype=dtype, metadata=texts)


def ldm_config(components: Components) -> str | None:
    """Return the config in YAML that A1111 and Forge need beside the single file of a model that predicts velocity.

    They take every model for one that predicts noise otherwise. The form is that of CompVis' `v1-inference.yaml`.
    """
    if not any(_target(components)):
        return None
    unet, vae, scheduler = components.unet.config, components.vae.config, components.scheduler.config  # type: ignore[attr-defined]
    widths, vae_widths = list(unet.block_out_channels), list(vae.block_out_channels)
    attending = [2**level for level, kind in enumerate(unet.down_block_types) if kind.startswith("CrossAttn")]
    heads = unet.num_attention_heads or unet.attention_head_dim  # diffusers' old name for the number of heads
    return _LDM_CONFIG.format(
        velocity="v" if _target(components)[0] else "eps",
        beta_start=scheduler.beta_start,
        beta_end=scheduler.beta_end,
        timesteps=scheduler.num_train_timesteps,
        scale_factor=vae.scaling_factor,
        channels=unet.in_channels,
        width=widths[0],
        resolutions=attending[::-1],
        multiples=[width // widths[0] for width in widths],
        layers=unet.layers_per_block,
        heads=heads if isinstance(heads, int) else heads[0],
        text_width=unet.cross_attention_dim,
        vae_width=vae_widths[0],
        vae_multiples=[width // vae_widths[0] for width in vae_widths],
        vae_layers=vae.layers_per_block,
    )


def _target(components: Components) -> tuple[bool, bool]:
    """Return whether a model predicts velocity, and whether its last training step is pure noise (Lin et al. 2023)."""
    config = components.scheduler.config  # type: ignore[attr-defined]
    return config.prediction_type == "v_prediction", bool(config.get("rescale_betas_zero_snr"))


def part_configs(components: Components) -> dict[str, dict[str, Any]]:
    """Return the configs of the networks and of the scheduler, as JSON data."""
    whole = {
        "unet": json.loads(components.unet.to_json_string()),
        "vae": json.loads(components.vae.to_json_string()),
        "text_encoder": json.loads(components.text_encoder.config.to_json_string()),
        "scheduler": json.loads(components.scheduler.to_json_string()),  # type: ignore[attr-defined]
    }
    return {
        part: {key: value for key, value in config.items() if key != "_name_or_path"} for part, config in whole.items()
    }


def read_metadata_spectrogram(path: Path, metadata: Mapping[str, str]) -> SpectrogramConfig | None:
    """Return the codec parameters that a file's metadata holds; None where it has none.

    Raises:
        InputError: If they are there and cannot be used.
    """
    text = metadata.get(METADATA_KEY)
    return None if text is None else from_data(_json(path, METADATA_KEY, text), f"{path} (metadata)")


def _skeleton(path: Path, metadata: Mapping[str, str], marks: Collection[str]) -> Components:
    summary = _json(path, SUMMARY_KEY, metadata.get(SUMMARY_KEY, "{}"))
    summary = summary if isinstance(summary, dict) else {}
    details: dict[str, Any] = {
        "spectrogram": read_metadata_spectrogram(path, metadata),
        "source": str(path),
        "sampling": read_recommended(summary.get("sampling"), f"{path} (metadata)"),
        "prompts": suggested_prompts(summary),
        "dataset_fingerprint": dataset_of(summary),
    }
    if CONFIGS_KEY in metadata:
        configs = _json(path, CONFIGS_KEY, metadata[CONFIGS_KEY])
        try:
            scheduler = scheduler_class(configs["scheduler"]).from_config(configs["scheduler"])
            return build_skeleton(configs, build_tokenizer(), scheduler, **details)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: the configs in its metadata cannot be used ({error!r})") from None
    with empty_networks():
        built = build_components(_SD15, seed=0)
    velocity = metadata.get("modelspec.prediction_type") == "v" or bool(marks) or _yaml_says_velocity(path)
    built.scheduler = trained_scheduler(
        build_scheduler("epsilon"),
        prediction_type="v_prediction" if velocity else "epsilon",
        rescale_betas_zero_snr=ZERO_SNR_MARK in marks,
    )
    return dataclasses.replace(built, **details)


def _yaml_says_velocity(path: Path) -> bool:
    """Return whether the config that A1111 and Forge read beside a file says that it predicts velocity."""
    beside = path.with_suffix(".yaml")
    if not beside.is_file():
        return False
    text = beside.read_text(encoding="utf-8", errors="replace")
    return re.search(r"""^\s*parameterization:\s*["']?v["']?\s*(#.*)?$""", text, re.MULTILINE) is not None


def _json(path: Path, key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise InputError(f"{path}: its metadata '{key}' is not valid JSON") from None


def _normalised(name: str) -> str:
    """Return a CLIP key as transformers 4 wrote it, whichever version did."""
    outer = PART_PREFIXES["text_encoder"]
    return (
        CLIP_PREFIX + name.removeprefix(outer) if name.startswith(outer) and not name.startswith(CLIP_PREFIX) else name
    )


def is_ignorable(name: str) -> bool:
    """Return whether a tensor of a file is none of the model's weights: a constant, a mark, or an old moving average."""
    return (
        name in (*_SCHEDULE_BUFFERS, V_PREDICTION_MARK, ZERO_SNR_MARK)
        or name.startswith("model_ema.")
        or name.endswith("embeddings.position_ids")
    )
