"""The config of `riffusion import`."""

import dataclasses

from omegaconf import MISSING

from riffusion_train.config.export import ExportDtype, ExportFormat, LoraLayout


@dataclasses.dataclass
class ImportConfig:
    """Everything `riffusion import` can be told."""

    out: str = MISSING
    """Folder or `.safetensors` file to write; it must not exist."""
    format: ExportFormat = ExportFormat.diffusers
    """The layout to write."""
    dtype: ExportDtype = ExportDtype.fp32
    """The kind of number that weights are written as."""
    base: str | None = None
    """With a LoRA: the model to merge it into; a folder, a file or a hub id."""
    revision: str | None = None
    """Revision of a hub id."""
    lora_scale: float = 1.0
    """With a LoRA and a base: how much of it."""
    layout: LoraLayout = LoraLayout.diffusers
    """With `format=lora`: the layout to write."""
    codec: str | None = None
    """Preset of `conf/spectrogram/` that says what the pictures of a model mean that does not say it itself."""
    allow_pickle: bool = False
    """Also read `.ckpt` and `.bin`, which are pickles: one that is made to can run code, so take only files that you trust."""
