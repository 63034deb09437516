"""Choose which weights are trained: freeze, unfreeze, or add low-rank adapters."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from riffusion_train.model.components import Components
from riffusion_train.runtime.errors import InputError

ADAPTER = "default"


def freeze(components: Components) -> None:
    """Make every weight of the model a constant, and put its networks into evaluation mode."""
    for module in components.modules.values():
        module.requires_grad_(False)
        module.eval()


def unfreeze(module: nn.Module) -> None:
    """Make every weight of a network trainable, and put it into training mode."""
    module.requires_grad_(True)
    module.train()


def unfreeze_vae(vae: nn.Module, *, encoder: bool) -> None:
    """Make the VAE's decoder trainable, and its encoder too where asked."""
    if encoder:
        unfreeze(vae)
        return
    for part in ("decoder", "post_quant_conv"):
        unfreeze(getattr(vae, part))


def add_lora(
    network: Any,
    *,
    rank: int,
    alpha: float,
    target_modules: Sequence[str],
    target_blocks: Sequence[str] = (),
    use_dora: bool = False,
    use_rslora: bool = False,
    key: str = "method.lora_target_modules",
) -> None:
    """Add trainable low-rank adapters to linear layers of the UNet or the text encoder (Hu et al. 2021, arXiv:2106.09685).

    Args:
        network: The UNet or the text encoder.
        rank: Rank of the adapters.
        alpha: Their scale; see `lora_scale_alpha`.
        target_modules: Last names of the layers that get one, such as `to_q`.
        target_blocks: Only layers inside these blocks, such as `mid_block`; empty is all.
        use_dora: DoRA (Liu et al. 2024, arXiv:2402.09353).
        use_rslora: rsLoRA (Kalajdzievski 2023, arXiv:2312.03732).
        key: Where `target_modules` came from, for messages.

    Raises:
        InputError: If no layer has one of the names.
    """
    from peft import LoraConfig

    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(tuple(f".{target}" for target in target_modules))
    ]
    if not names:
        raise InputError(f"{key}: the {type(network).__name__} has no linear layer named {', '.join(target_modules)}")
    for block in target_blocks:
        if not any(name.startswith(f"{block}.") for name in names):
            raise InputError(f"method.lora_target_blocks: the UNet has no such layers in a block named {block}")
    if target_blocks:
        names = [name for name in names if name.startswith(tuple(f"{block}." for block in target_blocks))]
    network.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            init_lora_weights="gaussian",
            target_modules=names,
            use_dora=use_dora,
            use_rslora=use_rslora,
        ),
        adapter_name=ADAPTER,
    )
    network.train()


def lora_scale_alpha(*, rank: int, alpha: float, use_rslora: bool) -> float:
    """Return the alpha that gives, divided by the rank, the scale of the adapters: files know this rule alone."""
    return alpha * math.sqrt(rank) if use_rslora else alpha


def adapter_weights(components: Components) -> dict[str, Tensor]:
    """Return the weights of all adapters by their names in the model: `unet.….lora_A.default.weight`."""
    return {
        f"{part}.{name}": weight
        for part in ("unet", "text_encoder")
        for name, weight in components.modules[part].named_parameters()
        if ".lora_" in name
    }
