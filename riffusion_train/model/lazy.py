"""A whole model on disk: the configs of its parts and where its weights lie, with no weight read yet."""

import dataclasses
from collections.abc import Iterable, Mapping

import torch
from torch import nn

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
    """Its parts; the networks have configs, names and shapes, their weights may lie on the meta device."""
    tensors: dict[str, dict[str, LazyTensor]]
    """By part and by the weight's name in its network: exactly the skeleton's weights."""

    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the shape of every weight by part and name."""
        return {part: {name: one.shape for name, one in found.items()} for part, found in self.tensors.items()}

    def replaced(self, weights: Mapping[str, LazyTensor]) -> "LazyModel":
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


def as_lazy_model(components: Components) -> LazyModel:
    """Return a model in memory as a stored one; nothing is copied."""
    tensors = {
        part: {name.removeprefix("text_model."): in_memory(tensor) for name, tensor in module.state_dict().items()}
        for part, module in components.modules.items()
    }
    return LazyModel(components, tensors)


def load_lazy_model(model: LazyModel) -> Components:
    """Read a stored model into memory, in fp32; its skeleton, on the meta device before, holds the weights then."""
    for part, module in model.skeleton.modules.items():
        load_weights(module, model.tensors[part])
    return model.skeleton


def load_weights(module: nn.Module, tensors: Mapping[str, LazyTensor]) -> None:
    """Give a network on the meta device its weights, in fp32."""
    weights = {name: tensor.load().to(torch.float32, copy=True) for name, tensor in tensors.items()}
    module.load_state_dict(weights, strict=True, assign=True)
    materialise_buffers(module)
    module.eval()


def match_weights(source: str, part: str, module: nn.Module, found: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
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


def lazy_fingerprint(tensors: Mapping[str, LazyTensor]) -> str:
    """Return what `fingerprint` says of the network that has these weights in fp32."""
    return hash_weights((name, one.load().float()) for name, one in sorted(tensors.items()))
