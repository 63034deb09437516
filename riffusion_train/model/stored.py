"""A whole model on disk: the configs of its parts and the places of its weights, with no weight read yet."""

import dataclasses
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from riffusion_train.config.spectrogram import load_spectrogram
from riffusion_train.model.components import MODEL_INDEX_FILE, Components, hash_weights
from riffusion_train.model.family import OTHER_SIZE, SD1, folder_family
from riffusion_train.model.tensor_file import StoredTensor, open_tensors, stored
from riffusion_train.model.tokenizer import load_tokenizer
from riffusion_train.runtime.errors import InputError

WEIGHT_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""Names of the weight files in a diffusers folder, without their ends."""

_PICKLE_STEMS = WEIGHT_STEMS | {"text_encoder": "pytorch_model"}
_POSITION_IDS = "embeddings.position_ids"  # a constant that old versions of transformers saved as a weight
_OLD_VAE_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_NAMES_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A model whose weights are read one at a time."""

    skeleton: Components
    """Its parts; the networks have configs, names and shapes, their weights may lie on the meta device."""
    tensors: dict[str, dict[str, StoredTensor]]
    """By part and by the weight's name in its network: exactly the skeleton's weights."""

    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the shape of every weight by part and name."""
        return {part: {name: one.shape for name, one in found.items()} for part, found in self.tensors.items()}

    def replaced(self, weights: Mapping[str, StoredTensor]) -> "StoredModel":
        """Return the model with some of its weights replaced, each named `<part>.<name>`.

        Raises:
            KeyError: If there is no such weight.
        """
        tensors = {part: dict(found) for part, found in self.tensors.items()}
        for full_name, tensor in weights.items():
            part, _, name = full_name.partition(".")
            name = name.removeprefix("text_model.") if part == "text_encoder" else name
            if tensors[part][name].shape != tensor.shape:
                raise KeyError(full_name)
            tensors[part][name] = tensor
        return dataclasses.replace(self, tensors=tensors)


def stored_components(components: Components) -> StoredModel:
    """Return a model in memory as a stored one; nothing is copied."""
    tensors = {
        part: {name.removeprefix("text_model."): stored(tensor) for name, tensor in module.state_dict().items()}
        for part, module in components.modules.items()
    }
    return StoredModel(components, tensors)


def read_components(model: StoredModel) -> Components:
    """Read a stored model into memory, in fp32; its skeleton, on the meta device before, holds the weights then."""
    for part, module in model.skeleton.modules.items():
        fill_network(module, model.tensors[part])
    return model.skeleton


def fill_network(module: nn.Module, tensors: Mapping[str, StoredTensor]) -> None:
    """Give a network on the meta device its weights, in fp32."""
    weights = {name: tensor.load().to(torch.float32, copy=True) for name, tensor in tensors.items()}
    module.load_state_dict(weights, strict=True, assign=True)
    _materialise_buffers(module)
    module.eval()


def open_folder(folder: Path, source: str, *, allow_pickle: bool = False) -> StoredModel:
    """Open a diffusers folder.

    Args:
        folder: The folder.
        source: What the user called it, for messages.
        allow_pickle: Whether a part without safetensors may be read from its `.bin`, a pickle.

    Raises:
        InputError: If it is another kind of model, or a part is missing, damaged or of other sizes than its config says.
    """
    if not (folder / MODEL_INDEX_FILE).is_file():
        raise InputError(f"{source}: no {MODEL_INDEX_FILE}; this is not a diffusers folder")
    family = folder_family(read_json(folder / MODEL_INDEX_FILE), read_json(folder / "unet" / "config.json"))
    check_family(source, family)
    skeleton = _folder_skeleton(folder, source)
    tensors = {}
    for part, module in skeleton.modules.items():
        try:
            found = _folder_tensors(folder / part, part, allow_pickle)
        except InputError as error:
            raise InputError(f"{source}: cannot read its {part} ({error})") from None
        tensors[part] = fitting(source, part, module, found)
    return StoredModel(skeleton, tensors)


def fitting(source: str, part: str, module: nn.Module, found: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return `found` where it is exactly the weights of `module`.

    Raises:
        InputError: If keys are missing, left over, or of another shape; all three are listed.
    """
    wanted = {name.removeprefix("text_model."): tuple(one.shape) for name, one in module.state_dict().items()}
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    misshapen = [name for name in wanted if name in found and wanted[name] != found[name].shape]
    if missing or unexpected or misshapen:
        kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        listed = "; ".join(f"{len(names)} {kind}: {shortened(names)}" for kind, names in kinds if names)
        raise InputError(f"{source}: its {part} does not fit Stable Diffusion 1.x: {listed}")
    return {name: found[name] for name in wanted}


def shortened(names: Iterable[str]) -> str:
    """Return the first of some names in one line."""
    ordered = list(names)
    return ", ".join(ordered[:_NAMES_SHOWN]) + (", …" if len(ordered) > _NAMES_SHOWN else "")


def check_family(source: str, family: str) -> None:
    """Refuse what is not Stable Diffusion 1.x.

    Raises:
        InputError: If `family` is another model.
    """
    if family in (SD1, OTHER_SIZE):
        return
    mend = (
        "riffusion import … base=MODEL merges it"
        if "LoRA in" in family
        else "only Stable Diffusion 1.x models are used"
    )
    raise InputError(f"{source}: this is {family}; {mend}")


def open_pickle(path: Path) -> dict[str, StoredTensor]:
    """Read the tensors of a `.ckpt` or `.bin`; torch's restricted unpickler builds tensors and plain data only.

    Raises:
        InputError: If the file is damaged, or holds more than tensors.
    """
    import pickle

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: damaged, or a pickle of more than tensors, which is not read ({reason})") from None
    weights = data.get("state_dict", data) if isinstance(data, dict) else {}
    tensors = {str(name): stored(tensor) for name, tensor in weights.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise InputError(f"{path}: holds no tensors")
    return tensors


def stored_fingerprint(tensors: Mapping[str, StoredTensor]) -> str:
    """Return what `fingerprint` says of the network that has these weights in fp32."""
    return hash_weights((name, one.load().float()) for name, one in sorted(tensors.items()))


def build_skeleton(
    configs: Mapping[str, Mapping[str, Any]], tokenizer: Any, scheduler: Any, **details: Any
) -> Components:
    """Build the three networks on the meta device from their configs; `details` are `spectrogram` and `source`."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return Components(
            vae=AutoencoderKL.from_config(dict(configs["vae"])),
            text_encoder=CLIPTextModel(CLIPTextConfig.from_dict(dict(configs["text_encoder"]))),
            unet=UNet2DConditionModel.from_config(dict(configs["unet"])),
            tokenizer=tokenizer,
            scheduler=scheduler,
            **details,
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: If the file is missing or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the model is not whole") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: not a JSON object")
    return data


def _folder_skeleton(folder: Path, source: str) -> Components:
    from diffusers import PNDMScheduler

    def load(part: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise InputError(f"{source}: cannot read its {part} ({str(error).strip().splitlines()[0]})") from None

    configs = {part: read_json(folder / part / "config.json") for part in WEIGHT_STEMS}
    return load(
        "configs",
        lambda: build_skeleton(
            configs,
            load("tokenizer", lambda: load_tokenizer(folder / "tokenizer")),
            load("scheduler", lambda: PNDMScheduler.from_pretrained(str(folder), subfolder="scheduler")),
            spectrogram=load_spectrogram(folder),
            source=source,
        ),
    )


def _folder_tensors(folder: Path, part: str, allow_pickle: bool) -> dict[str, StoredTensor]:
    """List one part's weights under today's names, from one file or several shards."""
    stem = WEIGHT_STEMS[part]
    found: dict[str, StoredTensor] = {}
    index = folder / f"{stem}.safetensors.index.json"
    whole = [folder / f"{stem}{kind}.safetensors" for kind in ("", ".fp16")]
    pickled = folder / f"{_PICKLE_STEMS[part]}.bin"
    if index.is_file():
        for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
            found |= open_tensors(folder / str(shard))[0]
    elif any(path.is_file() for path in whole):
        found = open_tensors(next(path for path in whole if path.is_file()))[0]
    elif pickled.is_file() and allow_pickle:
        found = open_pickle(pickled)
    elif pickled.is_file():
        raise InputError(f"{pickled.name} is a pickle that can run code; riffusion import … allow_pickle=true reads it")
    else:
        raise InputError(f"no {whole[0].name}")
    return dict(_renamed(part, name, tensor) for name, tensor in found.items() if not name.endswith(_POSITION_IDS))


def _renamed(part: str, name: str, tensor: StoredTensor) -> tuple[str, StoredTensor]:
    if part == "text_encoder":
        return name.removeprefix("text_model."), tensor
    if part == "vae" and ".attentions." in name:
        for old, new in _OLD_VAE_NAMES.items():
            name = name.replace(old, new)
        if len(tensor.shape) == 4:
            return name, as_matrix(tensor)
    return name, tensor


def as_matrix(tensor: StoredTensor) -> StoredTensor:
    """Return a 1 x 1 convolution (out, in, 1, 1) as a matrix (out, in)."""
    shape = tensor.shape[:2]
    return StoredTensor(shape, tensor.dtype, lambda: tensor.load().reshape(shape))


def as_convolution(tensor: StoredTensor) -> StoredTensor:
    """Return a matrix (out, in) as a 1 x 1 convolution (out, in, 1, 1)."""
    shape = (*tensor.shape, 1, 1)
    return StoredTensor(shape, tensor.dtype, lambda: tensor.load().reshape(shape))


def _materialise_buffers(module: nn.Module) -> None:
    """Replace the non-persistent buffers, which no checkpoint holds, by real ones: CLIP's position ids."""
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.is_meta:
                if name != "position_ids":
                    raise RuntimeError(f"no value known for the buffer {name} of {type(owner).__name__}")
                owner.register_buffer(name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False)
