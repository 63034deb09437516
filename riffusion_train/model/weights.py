"""Weights on disk, one at a time: they stream from file to file and are never in memory as a whole.

Files are written in safetensors' own layout: eight bytes with the length of the header, the header as JSON, the tensors.
Pickles are read only where the user allows it. A whole model so is a `LazyModel`: the configs of its parts, and where its
weights are.
"""

import dataclasses
import functools
import hashlib
import math
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from riffusion_train.model.components import Components, hash_weights, materialise_buffers
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import open_atomically, read_safetensors_header, safetensors_header

# --- tensors ---------------------------------------------------------------------------------------------------------

_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when it is needed."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]
    """Reads it; every call gives a tensor that the caller may keep."""


def in_memory(tensor: Tensor) -> LazyTensor:
    """Wrap a tensor that is in memory already."""
    return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def open_tensors(path: Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """List the tensors of a safetensors file without reading them.

    Each is read into memory of its own, which goes back to the system once it is freed; safetensors itself maps the whole file,
    and reads its header again for every tensor of a file that is not held open.

    Returns:
        The tensors by name, and the file's metadata.

    Raises:
        InputError: If it is no safetensors file, a truncated one, or holds a dtype that is not supported.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(4).startswith(_PICKLE_STARTS):
            raise InputError(
                f"{path}: not a whole safetensors file: it is a pickle under that name, which can run code; get the real "
                ".safetensors file"
            )

    tensors = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            positions = _positions(path)
            for name in file.keys():  # noqa: SIM118 (not a dict)
                part = file.get_slice(name)
                if part.get_dtype() not in _DTYPES:
                    raise InputError(
                        f"{path}: {name} is {part.get_dtype()}, a quantised file; get the fp16 or fp32 one"
                    )
                shape, dtype = tuple(part.get_shape()), _DTYPES[part.get_dtype()]
                tensors[name] = LazyTensor(shape, dtype, functools.partial(_read, path, *positions[name], shape, dtype))
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); fetch it again") from None
    return tensors, metadata


def _positions(path: Path) -> dict[str, tuple[int, int]]:
    """Return the first byte of each tensor in a safetensors file, and the number of its bytes."""
    header, begin = read_safetensors_header(path)
    bounds = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (begin + start, end - start) for name, (start, end) in bounds.items()}


def _read(path: Path, start: int, size: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    content = np.fromfile(path, np.uint8, size, offset=start)
    return torch.from_numpy(content).view(dtype).reshape(shape)


def write_tensors(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors one by one as a safetensors file.

    Args:
        path: The file; on an error nothing is left of it.
        tensors: What to write, by name.
        dtype: What floating-point tensors become; None keeps them. Whole numbers are never converted.
        metadata: Text that goes into the header.

    Raises:
        InputError: If a weight is too large for `dtype`.
    """
    kinds = _written_dtypes(tensors, dtype)
    names = _written_order(kinds)
    entries = {
        name: (_CODES[kinds[name]], tensors[name].shape, math.prod(tensors[name].shape) * kinds[name].itemsize)
        for name in names
    }
    with open_atomically(path, sync=True) as file:
        file.write(safetensors_header(entries, metadata or {}))
        for name in names:
            tensor = _converted(name, tensors[name].load(), kinds[name])
            if tuple(tensor.shape) != tensors[name].shape:
                raise RuntimeError(f"{name}: read as {tuple(tensor.shape)}, announced as {tensors[name].shape}")
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def hash_tensors(tensors: Mapping[str, LazyTensor], dtype: torch.dtype | None = None) -> str:
    """Return the SHA-256 of what `write_tensors` would write behind the header: kohya's `sshs_model_hash`."""
    digest = hashlib.sha256()
    kinds = _written_dtypes(tensors, dtype)
    for name in _written_order(kinds):
        digest.update(_converted(name, tensors[name].load(), kinds[name]).reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _written_dtypes(tensors: Mapping[str, LazyTensor], dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    return {
        name: dtype if dtype and tensor.dtype.is_floating_point else tensor.dtype for name, tensor in tensors.items()
    }


def _written_order(kinds: Mapping[str, torch.dtype]) -> list[str]:
    # Large dtypes first, as safetensors does, so that every tensor lies at a multiple of its own size.
    return sorted(kinds, key=lambda name: (-kinds[name].itemsize, name))


def _converted(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().cpu()
    if tensor.dtype == dtype:
        return tensor.contiguous()
    converted = tensor.to(dtype)
    if dtype is torch.float16 and not converted.isfinite().all() and tensor.isfinite().all():
        raise InputError(f"dtype=fp16: the weight {name} is too large for it; take dtype=bf16 or fp32")
    return converted.contiguous()


def open_pickle(path: Path) -> dict[str, LazyTensor]:
    """Read the tensors of a `.ckpt` or `.bin`; torch's restricted unpickler builds tensors and plain data only.

    Raises:
        InputError: If the file is damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: damaged, or a pickle of more than tensors, which is not read ({reason})") from None
    weights = data.get("state_dict", data) if isinstance(data, dict) else {}
    tensors = {str(name): in_memory(tensor) for name, tensor in weights.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise InputError(f"{path}: holds no tensors")
    return tensors


def as_matrix(tensor: LazyTensor) -> LazyTensor:
    """Return a 1 x 1 convolution (out, in, 1, 1) as a matrix (out, in)."""
    shape = tensor.shape[:2]
    return LazyTensor(shape, tensor.dtype, lambda: tensor.load().reshape(shape))


def as_convolution(tensor: LazyTensor) -> LazyTensor:
    """Return a matrix (out, in) as a 1 x 1 convolution (out, in, 1, 1)."""
    shape = (*tensor.shape, 1, 1)
    return LazyTensor(shape, tensor.dtype, lambda: tensor.load().reshape(shape))


# --- whole models ----------------------------------------------------------------------------------------------------

WEIGHT_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""Names of the weight files in a diffusers folder, without their ends."""

PICKLE_STEMS = WEIGHT_STEMS | {"text_encoder": "pytorch_model"}
_NAMES_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class LazyModel:
    """A model whose weights are read one at a time."""

    skeleton: Components
    """Its parts; the networks have configs, names and shapes, and may be on the meta device."""
    tensors: dict[str, dict[str, LazyTensor]]
    """By part and by the weight's name in its network: exactly the skeleton's weights."""

    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the shape of every weight by part and name."""
        return {part: {name: one.shape for name, one in weights.items()} for part, weights in self.tensors.items()}

    def replaced(self, weights: Mapping[str, LazyTensor]) -> "LazyModel":
        """Return the model with some of its weights replaced, each named `<part>.<name>`.

        Raises:
            KeyError: If there is no such weight.
        """
        tensors = {part: dict(named) for part, named in self.tensors.items()}
        for full_name, tensor in weights.items():
            part, _, name = full_name.partition(".")
            name = name.removeprefix("text_model.") if part == "text_encoder" else name
            if tensors[part][name].shape != tensor.shape:
                raise KeyError(full_name)
            tensors[part][name] = tensor
        return dataclasses.replace(self, tensors=tensors)


def as_lazy_model(components: Components) -> LazyModel:
    """Return a model in memory as a `LazyModel`; nothing is copied."""
    tensors = {
        part: {name.removeprefix("text_model."): in_memory(tensor) for name, tensor in module.state_dict().items()}
        for part, module in components.modules.items()
    }
    return LazyModel(components, tensors)


def load_lazy_model(model: LazyModel) -> Components:
    """Read a model into memory, in fp32: its skeleton, which was on the meta device, gets the weights.

    Raises:
        InputError: If a weight is NaN or infinite.
    """
    for part, module in model.skeleton.modules.items():
        load_weights(module, model.tensors[part])
        for name, weight in module.named_parameters():
            check_weight(f"{model.skeleton.source}: its {part.replace('_', ' ')}", name, weight)
    return model.skeleton


def load_weights(module: nn.Module, tensors: Mapping[str, LazyTensor]) -> None:
    """Give a network on the meta device its weights, in fp32."""
    weights = {name: tensor.load().to(torch.float32, copy=True) for name, tensor in tensors.items()}
    module.load_state_dict(weights, strict=True, assign=True)
    materialise_buffers(module)
    module.eval()


def check_weight(source: str, name: str, weight: Tensor) -> None:
    """Refuse a weight with which every image would be empty or noise.

    Raises:
        InputError: If it is not made of floating-point numbers, or one of them is NaN or infinite.
    """
    if not weight.dtype.is_floating_point:
        raise InputError(
            f"{source}: {name} holds {_dtype_name(weight.dtype)}, not floating-point numbers; get the file again"
        )
    # NaN passes through to both ends; nothing the size of the weight is made, as by isfinite.
    if weight.numel() and not all(math.isfinite(end) for end in torch.aminmax(weight.detach().float())):
        raise InputError(
            f"{source}: {name} has values that are NaN or infinite: the training diverged, or the file is damaged; take an "
            "earlier checkpoint, or get the file again"
        )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def match_weights(
    source: str, part: str, module: nn.Module, tensors: Mapping[str, LazyTensor]
) -> dict[str, LazyTensor]:
    """Return `tensors` in the order of the weights of `module`, where they are exactly these.

    Raises:
        InputError: If keys are missing, left over, or of another shape, which is all listed; or if weights are whole numbers.
    """
    expected = {name.removeprefix("text_model."): tuple(one.shape) for name, one in module.state_dict().items()}
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    reshaped = [name for name in expected if name in tensors and expected[name] != tensors[name].shape]
    if missing or unexpected or reshaped:
        kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        listed = "; ".join(f"{len(names)} {kind}: {shortened(names)}" for kind, names in kinds if names)
        raise InputError(f"{source}: its {part} does not fit Stable Diffusion 1.x: {listed}")
    whole = [name for name in expected if not tensors[name].dtype.is_floating_point]
    if whole:
        raise InputError(
            f"{source}: its {part} holds {_dtype_name(tensors[whole[0]].dtype)} instead of floating-point numbers: "
            f"{shortened(whole)}; get the fp16 or fp32 file"
        )
    return {name: tensors[name] for name in expected}


def shortened(names: Iterable[str]) -> str:
    """Return the first few names, on one line."""
    ordered = list(names)
    return ", ".join(ordered[:_NAMES_SHOWN]) + (", …" if len(ordered) > _NAMES_SHOWN else "")


def lazy_fingerprint(tensors: Mapping[str, LazyTensor]) -> str:
    """Return the `fingerprint` of the network that has these weights in fp32."""
    return hash_weights((name, one.load().float()) for name, one in sorted(tensors.items()))
