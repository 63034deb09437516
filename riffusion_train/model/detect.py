"""Detect what a model or LoRA is from the names and shapes of its weights, or from its configs."""

from collections.abc import Mapping

from riffusion_train.runtime.errors import InputError

SD1 = "Stable Diffusion 1.x"
OTHER_SIZE = "the architecture of Stable Diffusion 1.x at another size"
LORA_KOHYA = "a LoRA in kohya's layout"
LORA_DIFFUSERS = "a LoRA in diffusers' layout"
LORA_PEFT = "a LoRA in peft's layout"
LORAS = (LORA_KOHYA, LORA_DIFFUSERS, LORA_PEFT)
UNET_DIFFUSERS = "a UNet alone, in diffusers' layout"
UNET_LDM = "a UNet alone, in the LDM layout"
UNETS = (UNET_DIFFUSERS, UNET_LDM)

PEFT_PREFIX = "base_model.model."
"""What peft puts before the names of layers."""

_UNET_START = "model.diffusion_model."
_UNET_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
_CROSS_ATTENTION = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_MARKS = {
    "conditioner.embedders.": "Stable Diffusion XL",
    "cond_stage_model.model.": "Stable Diffusion 2.x",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "Flux",
    "double_blocks.": "Flux",
    "control_model.": "a ControlNet",
    "emb_params": "a textual inversion",
}
_OTHER_ADAPTER_ENDS = {
    ".hada_w1_a": "a LoHa adapter",
    ".lokr_w1": "a LoKr adapter",
    ".lokr_w1_a": "a LoKr adapter",
    ".diff": "a LyCORIS adapter of full matrices",
    ".oft_blocks": "an OFT adapter",
    ".oft_diag": "an OFT adapter",
    ".a1.weight": "a GLoRA adapter",
    ".on_input": "an IA3 adapter",
}
_LORA_ENDS = {
    ".lora_down.weight": LORA_KOHYA,
    ".lora_A.weight": LORA_DIFFUSERS,
    ".lora.down.weight": LORA_DIFFUSERS,
    "_lora.down.weight": LORA_DIFFUSERS,
    ".lora_linear_layer.down.weight": LORA_DIFFUSERS,
}


def detect_file(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return what a file of these tensors is, in words: `SD1`, a LoRA's layout, or another model's name."""
    for ends in (_OTHER_ADAPTER_ENDS, _LORA_ENDS):  # a file of several kinds cannot be read as a LoRA
        for key in shapes:
            for end, name in ends.items():
                if key.endswith(end):
                    return LORA_PEFT if name == LORA_DIFFUSERS and key.startswith(PEFT_PREFIX) else name
    for key in shapes:
        for start, name in _MARKS.items():
            if key.startswith(start):
                return name
    if _UNET_INPUT in shapes:
        kind = _by_sizes(shapes)
        others = any("." in key and not key.startswith(_UNET_START) for key in shapes)
        return kind if others else _unet_alone(kind, UNET_LDM)
    if _UNET_INPUT.removeprefix(_UNET_START) in shapes:
        return _unet_alone(_by_sizes({_UNET_START + key: shape for key, shape in shapes.items()}), UNET_LDM)
    if "encoder.conv_in.weight" in shapes or "first_stage_model.encoder.conv_in.weight" in shapes:
        return "a VAE alone"
    if "conv_in.weight" in shapes:
        return UNET_DIFFUSERS
    return "an unknown kind of model"


def _unet_alone(kind: str, name: str) -> str:
    return name if kind in (SD1, OTHER_SIZE) else f"{kind}, its UNet alone"


def _by_sizes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    channels = shapes[_UNET_INPUT]
    if channels[1] == 9:
        return "a Stable Diffusion inpainting model"
    if channels[1] == 8:
        return "an InstructPix2Pix model"
    width = shapes.get(_CROSS_ATTENTION, (0, 0))[1]
    if width == 1024:
        return "Stable Diffusion 2.x"
    return SD1 if (channels[0], width) == (320, 768) else OTHER_SIZE


def detect_folder(index: Mapping[str, object], unet_config: Mapping[str, object]) -> str:
    """Return what a diffusers folder is, from its `model_index.json` and its UNet's `config.json`."""
    if "text_encoder_2" in index or unet_config.get("addition_embed_type"):
        return "Stable Diffusion XL"
    if unet_config.get("use_linear_projection") or unet_config.get("cross_attention_dim") == 1024:
        return "Stable Diffusion 2.x"
    if unet_config.get("in_channels") == 9:
        return "a Stable Diffusion inpainting model"
    if "unet" not in index or "text_encoder" not in index:
        return f"a {index.get('_class_name', 'pipeline')} of diffusers"
    width = unet_config.get("cross_attention_dim"), list(unet_config.get("block_out_channels", []))  # type: ignore[call-overload]
    return SD1 if width == (768, [320, 640, 1280, 1280]) else OTHER_SIZE


def require_sd1(source: str, kind: str) -> None:
    """Refuse what is not Stable Diffusion 1.x.

    Args:
        source: What the user called it, for messages.
        kind: What `detect_file` or `detect_folder` says.

    Raises:
        InputError: If it is something else.
    """
    if kind in (SD1, OTHER_SIZE):
        return
    fix = "only Stable Diffusion 1.x models are supported"
    if kind in LORAS:
        fix = lora_advice(source)
    elif kind in UNETS:
        fix = f"complete it with the rest of a model: riffusion import {source} base=MODEL out=DIR"
    elif kind in _OTHER_ADAPTER_ENDS.values():
        fix = "of adapters, only LoRA and DoRA are read; merge it with the program that made it"
    raise InputError(f"{source}: this is {kind}; {fix}")


def lora_advice(source: str) -> str:
    """Return what to do with adapters that were given as a model."""
    return (
        f"use it with its base: riffusion sample BASE --lora {source} (or play), or merge it: riffusion import {source} "
        "base=BASE out=DIR"
    )
