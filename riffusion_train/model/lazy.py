"""A whole model on disk: the configs of its parts and where its weights are, with no weight read yet."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from riffusion_train.model.architecture import materialise_buffers
from riffusion_train.model.components import Components, hash_weights
from riffusion_train.model.safetensors_io import LazyTensor, in_memory
from riffusion_train.runtime.errors import InputError

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
