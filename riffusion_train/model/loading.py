"""Models and files: build one, open any of them, merge LoRA files, write any format."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from riffusion_train.config.denoising import read_recommended
from riffusion_train.config.model import ExportDtype, ExportFormat, LoraLayout, ModelConfig, ModelName
from riffusion_train.config.sample import Dtype
from riffusion_train.config.spectrogram import SPECTROGRAM_FILE, write_spectrogram
from riffusion_train.model.components import Components, build_components
from riffusion_train.model.detect import LORAS, detect_file, lora_advice
from riffusion_train.model.diffusers_folder import (
    MODEL_INDEX_FILE,
    SUMMARY_FILE,
    SUMMARY_KEY,
    dataset_of,
    open_folder,
    write_model,
)
from riffusion_train.model.lora import (
    LORA_FILE,
    Lora,
    lora_files,
    merge_lora,
    read_lora,
    write_diffusers_lora,
    write_kohya_lora,
)
from riffusion_train.model.single_file import (
    UNET_PREFIX,
    is_ignorable,
    ldm_names,
    open_single_file,
    read_metadata_spectrogram,
    write_single_file,
)
from riffusion_train.model.weights import (
    PICKLE_STEMS,
    WEIGHT_STEMS,
    LazyModel,
    load_lazy_model,
    match_weights,
    open_tensors,
)
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.hub import check_source, model_place


def make_components(config: ModelConfig, seed: int) -> Components:
    """Load or build the model that `config` describes.

    Raises:
        InputError: If it names no weights, or weights that cannot be used.
    """
    if config.name is ModelName.pretrained:
        if not config.path:
            raise InputError("model=pretrained needs model.path=…: a hub id, a diffusers folder or a .safetensors file")
        return load_components(config.path, config.revision)
    return build_components(config, seed)


def load_components(source: str, revision: str | None = None) -> Components:
    """Load a model in fp32: a diffusers folder, a single `.safetensors` file, a hub id, or `laptop`, which is in the package.

    Raises:
        InputError: If there is nothing usable at `source`; the message names the part that is missing.
    """
    return load_lazy_model(open_model(source, revision))


def open_model(source: str, revision: str | None = None, *, allow_pickle: bool = False) -> LazyModel:
    """Open a model without reading its weights: a diffusers folder, a single file, a hub id, or one that is in the package.

    Args:
        source: Where it is, or `laptop`.
        revision: Revision of a hub id.
        allow_pickle: Whether weights may come from a `.ckpt` or `.bin`, which are pickles.

    Raises:
        InputError: If there is nothing usable at `source`.
    """
    place = model_place(source)
    path = Path(place).expanduser()
    if path.is_file():
        return open_single_file(path, allow_pickle=allow_pickle)
    if path.is_dir():
        _check_whole(path)
        return open_folder(path, str(path) if place == source else source, allow_pickle=allow_pickle)
    check_source(source)
    return open_folder(_fetch(source, revision, allow_pickle), source, allow_pickle=allow_pickle)


def is_lora(source: str) -> bool:
    """Return whether a path holds adapters."""
    files = lora_files(Path(model_place(source)).expanduser())
    return bool(files) and file_kind(files[0]) in LORAS


def file_kind(path: Path) -> str:
    """Return what a `.safetensors` file is, in words; nothing for other files, which are opened in another way."""
    if not path.is_file() or path.suffix != ".safetensors":
        return ""
    tensors, _ = open_tensors(path)
    return detect_file({name: tensor.shape for name, tensor in tensors.items()})


def _check_whole(folder: Path) -> None:
    """Refuse a folder of adapters, or a run, and say what to do with it.

    Raises:
        InputError: If the folder is one of these.
    """
    if (folder / MODEL_INDEX_FILE).is_file():
        return
    if (folder / "manifest.json").is_file() and (folder / "config.yaml").is_file():
        raise InputError(
            f"{folder}: a run, not a model; riffusion export run={folder} out=MODEL, or use {folder / 'final'} once it is done"
        )
    if lora_files(folder):
        raise InputError(f"{folder}: this is a LoRA, not a whole model; {lora_advice(str(folder))}")


def open_with_base(path: Path, base: LazyModel) -> LazyModel:
    """Complete a UNet alone with the rest of another model.

    Args:
        path: The UNet's `.safetensors` file, in diffusers' or the LDM layout.
        base: The model that gives everything else, of the same sizes.

    Raises:
        InputError: If the file is damaged, or its UNet does not fit the base.
    """
    tensors, metadata = open_tensors(path)
    parts = base.skeleton
    if "conv_in.weight" not in tensors:  # the LDM layout, with or without the prefix of a whole file
        names = {ldm.key: name for name, ldm in ldm_names(parts.modules)["unet"].items()}
        full = {
            UNET_PREFIX + key.removeprefix(UNET_PREFIX): tensor
            for key, tensor in tensors.items()
            if not is_ignorable(key)
        }
        tensors = {names.get(key, key): tensor for key, tensor in full.items()}
    unet = match_weights(str(path), f"UNet, with base {parts.source},", parts.unet, tensors)
    spectrogram = read_metadata_spectrogram(path, metadata) or parts.spectrogram
    skeleton = dataclasses.replace(parts, source=str(path), spectrogram=spectrogram)
    return dataclasses.replace(base, skeleton=skeleton, tensors=base.tensors | {"unet": unet})


def _fetch(source: str, revision: str | None, allow_pickle: bool) -> Path:
    """Fetch the parts of a model from the hub; return the folder in the local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [MODEL_INDEX_FILE, SPECTROGRAM_FILE, SUMMARY_FILE, "tokenizer/*", "scheduler/*"]
    for part in WEIGHT_STEMS:
        patterns += [f"{part}/config.json", f"{part}/*.safetensors", f"{part}/*.safetensors.index.json"]
        patterns += [f"{part}/{PICKLE_STEMS[part]}.bin"] if allow_pickle else []
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{source}: cannot be fetched from the hub ({reason}); where the hub is out of reach, give a folder or file "
            f"instead, such as model=PATH in train"
        ) from None


TORCH_DTYPES = {Dtype.fp32: None, Dtype.fp16: torch.float16, Dtype.bf16: torch.bfloat16}
"""The dtypes of UNet and text encoder for sampling; None keeps them."""


def load_with_loras(source: str, loras: Sequence[str]) -> Components:
    """Load a model and merge LoRA files into it, one after the other.

    Args:
        source: A diffusers folder, a single file or a hub id.
        loras: `FILE` or `FILE:WEIGHT` each; the weight is its strength, 1 where none is given.

    Raises:
        InputError: If something cannot be read or does not fit.
    """
    if not loras:
        return load_components(source)
    model = open_model(source)
    known = [model.skeleton.dataset_fingerprint]
    for text in loras:
        path, weight = split_lora(text)
        if not path.exists():
            raise InputError(f"--lora {path}: no such file")
        lora = read_lora(path, model.skeleton.modules, source)
        model = merge_lora(model, lora, weight)
        if recommended := recommended_by_lora(lora):
            model = dataclasses.replace(model, skeleton=dataclasses.replace(model.skeleton, sampling=recommended))
        known.append(dataset_of(summary_of(lora)))
    datasets = ", ".join(dict.fromkeys(one for one in known if one)) or None
    return load_lazy_model(
        dataclasses.replace(model, skeleton=dataclasses.replace(model.skeleton, dataset_fingerprint=datasets))
    )


def summary_of(lora: Lora) -> dict[str, Any]:
    """Return what the metadata of adapters says about how they were made; empty if it says nothing."""
    try:
        summary = json.loads(lora.metadata.get(SUMMARY_KEY, "{}"))
    except ValueError:
        return {}
    return summary if isinstance(summary, dict) else {}


def recommended_by_lora(lora: Lora) -> dict[str, Any]:
    """Return the options of sampling that adapters recommend in their metadata, as those of a distilled model do.

    Raises:
        InputError: If they cannot be used.
    """
    return read_recommended(summary_of(lora).get("sampling"), f"{lora.source} (metadata)")


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
        raise InputError(f"--lora {text}: '{weight}' is not a number; write FILE:0.8")
    return Path(name).expanduser(), number


EXPORT_DTYPES = {ExportDtype.fp32: torch.float32, ExportDtype.fp16: torch.float16, ExportDtype.bf16: torch.bfloat16}


def write_model_files(
    path: Path,
    kind: ExportFormat,
    *,
    model: LazyModel | None = None,
    lora: Lora | None = None,
    layout: LoraLayout = LoraLayout.diffusers,
    dtype: ExportDtype = ExportDtype.fp32,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a model or adapters in one format, with the codec parameters beside or inside.

    Args:
        path: The folder or file.
        kind: The format.
        model: The whole model; needed by all formats but `lora`.
        lora: The adapters; needed by `lora`.
        layout: The layout of the adapters.
        dtype: What the weights become.
        metadata: Text for the header of a single file or of adapters.

    Raises:
        InputError: If a weight is too large for `dtype`, or the format cannot carry the model's tokenizer.
    """
    number, extra = EXPORT_DTYPES[dtype], metadata or {}
    if kind is not ExportFormat.lora:
        assert model is not None
        if kind is ExportFormat.diffusers:
            write_model(path, model, dtype=number)
        else:
            write_single_file(path, model, dtype=number, metadata=extra)
        return
    assert lora is not None
    if layout is LoraLayout.kohya:
        write_kohya_lora(path, lora, dtype=number, extra=extra)
        return
    path.mkdir(parents=True)
    write_diffusers_lora(path / LORA_FILE, lora, dtype=number, extra=extra)
    if lora.spectrogram is not None:
        write_spectrogram(path, lora.spectrogram)
