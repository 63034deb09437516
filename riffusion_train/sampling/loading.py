"""A model for the sampler, with LoRA files merged in."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from riffusion_train.config.sample import Dtype
from riffusion_train.model.components import Components, load_components, open_model
from riffusion_train.runtime.errors import InputError

TORCH_DTYPES = {Dtype.fp32: None, Dtype.fp16: torch.float16, Dtype.bf16: torch.bfloat16}
"""What UNet and text encoder are turned into."""


def load_with_loras(source: str, loras: Sequence[str]) -> Components:
    """Load a model and merge LoRA files into it, one after the other.

    Args:
        source: A diffusers folder, a single file or a hub id.
        loras: `FILE` or `FILE:WEIGHT` each; the weight is how much of it, 1 where it is not said.

    Raises:
        InputError: If something cannot be read or does not fit.
    """
    if not loras:
        return load_components(source)
    from riffusion_train.model.lora import merged, read_lora
    from riffusion_train.model.stored import read_components

    model = open_model(source)
    for text in loras:
        path, weight = split_lora(text)
        if not path.exists():
            raise InputError(f"--lora {path}: no such file")
        model = merged(model, read_lora(path, model.skeleton.modules, source), weight)
    return read_components(model)


def split_lora(text: str) -> tuple[Path, float]:
    """Split `FILE:WEIGHT` into the file and its weight.

    Raises:
        InputError: If the weight is no number.
    """
    name, separator, weight = text.rpartition(":")
    if not separator or Path(text).expanduser().exists():
        return Path(text).expanduser(), 1.0
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"--lora {text}: '{weight}' is no weight; write FILE:0.8")
    return Path(name).expanduser(), number
