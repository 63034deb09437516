"""`riffusion import`: from any format that people keep Stable Diffusion 1.x models in to any format."""

import dataclasses
from pathlib import Path

import torch

from riffusion_train.config.export import ExportDtype, ExportFormat, LoraLayout
from riffusion_train.config.model import ModelConfig, ModelName
from riffusion_train.config.spectrogram import SpectrogramConfig, load_preset
from riffusion_train.export.product import check_target, write_product, written_beside
from riffusion_train.model.detect import LORA_DIFFUSERS, LORA_KOHYA, detect_family
from riffusion_train.model.lazy import LazyModel
from riffusion_train.model.loading import make_components, open_model
from riffusion_train.model.lora import LORA_FILE, Lora, merged, read_lora
from riffusion_train.model.safetensors_io import open_tensors
from riffusion_train.runtime.errors import InputError


def import_model(
    source: str,
    out: Path,
    *,
    kind: ExportFormat = ExportFormat.diffusers,
    dtype: ExportDtype = ExportDtype.fp32,
    base: str | None = None,
    revision: str | None = None,
    lora_scale: float = 1.0,
    layout: LoraLayout = LoraLayout.diffusers,
    codec: str | None = None,
    allow_pickle: bool = False,
) -> str:
    """Read a model or a LoRA and write it to `out`.

    Args:
        source: A diffusers folder, a single file, a hub id, or a LoRA's file or folder.
        out: The folder or file to write.
        kind: The format to write.
        dtype: The kind of number.
        base: With a LoRA, the model to merge it into.
        revision: Revision of a hub id.
        lora_scale: How much of the LoRA.
        layout: The layout of adapters to write.
        codec: Preset for a model that does not say what its pictures mean.
        allow_pickle: Whether `.ckpt` and `.bin` files are read.

    Returns:
        What was read, in words.

    Raises:
        InputError: If something does not fit; nothing is left behind then.
    """
    check_target(out, kind, layout)
    preset = None if codec is None else load_preset(codec)
    model, lora = None, None
    if is_lora(source):
        lora, model = _open_lora(source, kind, base, revision, lora_scale)
        lora = dataclasses.replace(lora, spectrogram=lora.spectrogram or preset)
        what = f"a LoRA of {len(lora.layers)} layers" + ("" if model is None else f", merged into {base}")
    else:
        if kind is ExportFormat.lora:
            raise InputError(f"{source}: a whole model holds no adapters; take format=diffusers or single_file")
        if base is not None:
            raise InputError(f"base={base}: {source} is a whole model and needs no base")
        model = open_model(source, revision, allow_pickle=allow_pickle)
        what = "a whole model"
    if model is not None:
        model = _with_codec(model, (lora and lora.spectrogram) or preset, override=lora is not None)
    with written_beside(out) as partial:
        write_product(partial, kind, model=model, lora=lora, layout=layout, dtype=dtype, metadata={})
    return what


def is_lora(source: str) -> bool:
    """Say whether a path holds adapters."""
    path = Path(source).expanduser()
    if path.is_dir():
        return (path / LORA_FILE).is_file()
    if not (path.is_file() and path.suffix == ".safetensors"):
        return False
    tensors, _ = open_tensors(path)
    return detect_family({name: tensor.shape for name, tensor in tensors.items()}) in (LORA_KOHYA, LORA_DIFFUSERS)


def _open_lora(
    source: str, kind: ExportFormat, base: str | None, revision: str | None, scale: float
) -> tuple[Lora, LazyModel | None]:
    path = Path(source).expanduser()
    if base is None:
        if kind is not ExportFormat.lora:
            raise InputError(f"{source}: a LoRA is no whole model; give base=MODEL to merge it, or take format=lora")
        with torch.device("meta"):
            sd15 = make_components(ModelConfig(name=ModelName.random), seed=0)
        return read_lora(path, sd15.modules), None
    model = open_model(base, revision)
    lora = read_lora(path, model.skeleton.modules, base)
    return lora, None if kind is ExportFormat.lora else merged(model, lora, scale)


def _with_codec(model: LazyModel, codec: SpectrogramConfig | None, *, override: bool) -> LazyModel:
    """Say what the pictures mean where the model does not, or where a LoRA has changed what it draws."""
    if codec is None or (model.skeleton.spectrogram is not None and not override):
        return model
    return dataclasses.replace(model, skeleton=dataclasses.replace(model.skeleton, spectrogram=codec))
