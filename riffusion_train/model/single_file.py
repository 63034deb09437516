"""Stable Diffusion 1.5 in one file, in the original LDM key layout: read and written without the network.

A file that we wrote also says in its metadata what its pictures mean and which sizes its networks have, so that a model of
any size comes back; a file without that has to be Stable Diffusion 1.5.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from riffusion_train.config.model import ModelConfig, ModelName
from riffusion_train.config.spectrogram import SpectrogramConfig, from_data, to_data
from riffusion_train.model.build import build_scheduler, make_components
from riffusion_train.model.components import Components
from riffusion_train.model.family import family_of
from riffusion_train.model.ldm_layout import CLIP_PREFIX, PART_PREFIXES, POSITION_IDS, ldm_names
from riffusion_train.model.stored import (
    StoredModel,
    as_convolution,
    as_matrix,
    build_skeleton,
    check_family,
    fitting,
    open_pickle,
    shortened,
)
from riffusion_train.model.tensor_file import StoredTensor, open_tensors, stored, write_tensors
from riffusion_train.model.tokenizer import build_tokenizer, is_standard
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


def open_single_file(path: Path, *, allow_pickle: bool = False) -> StoredModel:
    """Open a single-file model.

    Args:
        path: A `.safetensors` file; a `.ckpt` only where allowed.
        allow_pickle: Whether a pickle may be read, with torch's restricted unpickler.

    Raises:
        InputError: If it is a pickle, damaged, another kind of model, or if keys are missing, left over or misshapen.
    """
    if path.suffix == ".safetensors":
        found, metadata = open_tensors(path)
    elif allow_pickle:
        found, metadata = open_pickle(path), {}
    else:
        raise InputError(
            f"{path}: only .safetensors files are read (a {path.suffix or 'nameless'} file is a pickle that can run code); "
            "riffusion import … allow_pickle=true converts one that you trust"
        )
    check_family(str(path), family_of({name: tensor.shape for name, tensor in found.items()}))
    skeleton = _skeleton(path, metadata)
    found = {_normalised(name): tensor for name, tensor in found.items() if not _ignorable(name)}
    tensors: dict[str, dict[str, StoredTensor]] = {}
    for part, names in ldm_names(skeleton.modules).items():
        here = {ldm.key: name for name, ldm in names.items()}
        convolutions = {ldm.key for ldm in names.values() if ldm.as_convolution}
        mine = [key for key in found if key.startswith(PART_PREFIXES[part])]
        tensors[part] = fitting(
            str(path),
            part.replace("_", " "),
            skeleton.modules[part],
            {
                here.get(key, key): as_matrix(found[key]) if _is_convolution(key, found, convolutions) else found[key]
                for key in mine
            },
        )
        for key in mine:
            del found[key]
    if found:
        raise InputError(f"{path}: {len(found)} unexpected keys: {shortened(found)}; this is not plain SD 1.x")
    return StoredModel(skeleton, tensors)


def write_single_file(
    path: Path, model: StoredModel, *, dtype: torch.dtype | None = None, metadata: Mapping[str, str] | None = None
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
    tensors: dict[str, StoredTensor] = {}
    names = ldm_names(parts.modules)
    for part, weights in model.tensors.items():
        by_name = {name.removeprefix("text_model."): ldm for name, ldm in names[part].items()}
        for name, tensor in weights.items():
            ldm = by_name[name]
            tensors[ldm.key] = as_convolution(tensor) if ldm.as_convolution else tensor
    positions = int(parts.text_encoder.config.max_position_embeddings)
    tensors[POSITION_IDS] = stored(torch.arange(positions)[None])
    texts = {"format": "pt", CONFIGS_KEY: json.dumps(part_configs(parts)), **(metadata or {})}
    if parts.spectrogram is not None:
        texts[METADATA_KEY] = json.dumps(to_data(parts.spectrogram))
    write_tensors(path, tensors, dtype=dtype, metadata=texts)


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


def _skeleton(path: Path, metadata: Mapping[str, str]) -> Components:
    from diffusers import PNDMScheduler

    details = {"spectrogram": read_metadata_spectrogram(path, metadata), "source": str(path)}
    if CONFIGS_KEY in metadata:
        configs = _json(path, CONFIGS_KEY, metadata[CONFIGS_KEY])
        try:
            scheduler = PNDMScheduler.from_config(configs["scheduler"])
            return build_skeleton(configs, build_tokenizer(), scheduler, **details)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: the configs in its metadata cannot be used ({error!r})") from None
    with torch.device("meta"):
        built = make_components(_SD15, seed=0)
    velocity = metadata.get("modelspec.prediction_type") == "v"
    built.scheduler = build_scheduler("v_prediction" if velocity else "epsilon")
    built.spectrogram, built.source = details["spectrogram"], str(path)  # type: ignore[assignment]
    return built


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


def _ignorable(name: str) -> bool:
    return name in _SCHEDULE_BUFFERS or name.startswith("model_ema.") or name.endswith("embeddings.position_ids")


def _is_convolution(key: str, found: Mapping[str, StoredTensor], convolutions: set[str]) -> bool:
    return key in convolutions and len(found[key].shape) == 4
