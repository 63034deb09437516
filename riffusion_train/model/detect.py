"""Detect what a model or LoRA is from the names and shapes of its weights, or from its configs."""

from collections.abc import Mapping

from riffusion_train.runtime.errors import InputError

SD1 = "Stable Diffusion 1.x"
OTHER_SIZE = "the architecture of Stable Diffusion 1.x at another size"
LORA_KOHYA = "a LoRA in kohya's layout"
LORA_DIFFUSERS = "a LoRA in diffusers' layout"

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
_LORA_ENDS = {
    ".lora_down.weight": LORA_KOHYA,
    ".lora_A.weight": LORA_DIFFUSERS,
    ".lora.down.weight": LORA_DIFFUSERS,
    "_lora.down.weight": LORA_DIFFUSERS,
    ".lora_linear_layer.down.weight": LORA_DIFFUSERS,
    ".hada_w1_a": "a LoHa adapter",
    ".lokr_w1": "a LoKr adapter",
}


def detect_file(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return what a file of these tensors is, in words: `SD1`, a LoRA's layout, or another model's name."""
    for key in shapes:
        for end, name in _LORA_ENDS.items():
            if key.endswith(end):
                return name
        for start, name in _MARKS.items():
            if key.startswith(start):
                return name
    if _UNET_INPUT in shapes:
        return _by_sizes(shapes)
    if "encoder.conv_in.weight" in shapes or "first_stage_model.encoder.conv_in.weight" in shapes:
        return "a VAE alone"
    if "conv_in.weight" in shapes:
        return "a UNet alone, in diffusers' layout"
    return "an unknown kind of model"


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
    fix = (
        "riffusion import … base=MODEL merges it"
        if "LoRA in" in kind
        else "only Stable Diffusion 1.x models are supported"
    )
    raise InputError(f"{source}: this is {kind}; {fix}")
