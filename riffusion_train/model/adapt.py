"""Choose which weights are trained: freeze, unfreeze, or add low-rank adapters."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from riffusion_train.config.errors import InputError
from riffusion_train.model.components import Components

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


def add_lora(unet: Any, *, rank: int, alpha: float, target_modules: Sequence[str]) -> None:
    """Add trainable low-rank adapters to the UNet's linear layers (Hu et al. 2021, arXiv:2106.09685).

    Raises:
        InputError: If no layer of the UNet has one of the names.
    """
    from peft import LoraConfig

    names = [name for name, module in unet.named_modules() if isinstance(module, nn.Linear)]
    if not any(name.endswith(tuple(f".{target}" for target in target_modules)) for name in names):
        raise InputError(f"method.lora_target_modules: the UNet has no linear layer named {', '.join(target_modules)}")
    unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(target_modules)),
        adapter_name=ADAPTER,
    )
    unet.train()
