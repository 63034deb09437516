"""Trained weights shared out between the processes (FSDP2), and put together again.

torch's `fully_shard` does it, on the same modules on a GPU and on a CPU; Accelerate, which would quietly take DDP on a CPU,
keeps the rest. Sharded weights are DTensors, so that every function here knows them by their type and lets whole ones through.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from riffusion_train.model.components import Components

_UNITS = ("ResnetBlock2D", "Transformer2DModel", "Downsample2D", "Upsample2D", "CLIPEncoderLayer")
"""Whose weights are brought together, used and let go at once: small enough for a small card, large enough for the network."""


def shard_components(components: Components, accelerator: Any) -> None:
    """Share out the weights of the networks that are trained, in place; frozen networks stay whole everywhere.

    The VAE's halves are shared out one by one, for it is entered by `encode` and `decode`, which `fully_shard` does not see.
    All units are let go after every forward pass, the outermost too: training would go on with those of a measurement.

    Args:
        components: The model, on its device; every process must have the same weights.
        accelerator: Accelerate's `Accelerator`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for network in (components.unet, components.text_encoder, *components.vae.children()):
        if not any(weight.requires_grad for weight in network.parameters()):
            continue
        network.to(memory_format=torch.contiguous_format)  # what is cut up must lie in one piece
        units = [module for module in network.modules() if type(module).__name__ in _UNITS]
        for module in (*reversed(units), network):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)


def prepare(
    accelerator: Any, objective: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return what to train with: what is sharded sends its own gradients around, everything else goes into DDP."""
    if is_sharded(objective):
        return objective, accelerator.prepare(optimizer)
    prepared: tuple[nn.Module, torch.optim.Optimizer] = accelerator.prepare(objective, optimizer)
    return prepared


def own_parts(weights: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return what this process holds of the weights, as plain parameters that share their memory.

    Ask anew for every use: the memory moves when a network is first used.
    """
    return [nn.Parameter(own_part(weight)) if isinstance(weight, DTensor) else weight for weight in weights]


def own_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, sharing its memory, out of the graph."""
    own = tensor.detach()
    return own.to_local() if isinstance(own, DTensor) else own


def joined(parts: Iterable[Tensor], weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return tensors shaped as `own_parts` as parts of whole ones, cut up as the weights are; there may be none."""
    return [
        DTensor.from_local(
            part.detach(),
            weight.device_mesh,
            weight.placements,
            run_check=False,
            shape=weight.shape,
            stride=weight.stride(),
        )
        if isinstance(weight, DTensor)
        else part
        for part, weight in zip(parts, weights, strict=False)
    ]


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor in one piece. All processes join."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Return the tensors in one piece, those that were not on the CPU. All processes join.

    Args:
        tensors: By name; the same names in the same order in every process.
        keep: Whether this process wants them; the others get nothing, and hold one at a time.
    """
    found = {}
    for name, tensor in tensors.items():
        one = whole(tensor)
        if keep:
            found[name] = one.detach().cpu() if isinstance(tensor, DTensor) else tensor
    return found


def like_weight(tensor: Tensor, weight: Tensor) -> Tensor:
    """Return a copy of a whole tensor in the memory layout and on the device of a weight of its shape: this process's part."""
    like = torch.empty_like(weight, dtype=tensor.dtype, requires_grad=False)
    if not isinstance(like, DTensor):
        return like.copy_(tensor)
    place, count = like.device_mesh.get_local_rank(), like.device_mesh.size()
    parts = tensor.chunk(count)  # fewer where there are not as many rows
    like.to_local().copy_(parts[place] if place < len(parts) else tensor[:0])
    return like


def whole_model(components: Components, accelerator: Any) -> Components:
    """Return the model with plain networks in place of sharded ones. All processes join; only the main one gets to use it.

    It is a copy on the CPU, so that it can be sampled and written by one process while the others wait.
    """
    sharded = {name: network for name, network in components.modules.items() if is_sharded(network)}
    main = accelerator.is_main_process
    weights = {name: gather(network.state_dict(), keep=main) for name, network in sharded.items()}
    if not (sharded and main):
        return components
    from riffusion_train.model.architecture import build_skeleton
    from riffusion_train.model.lazy import fill_network
    from riffusion_train.model.safetensors_io import stored

    configs: dict[str, Any] = {
        "vae": components.vae.config,
        "text_encoder": components.text_encoder.config.to_dict(),
        "unet": components.unet.config,
    }
    details = {"spectrogram": components.spectrogram, "source": components.source}
    model = build_skeleton(configs, components.tokenizer, components.scheduler, **details)
    for name, network in components.modules.items():
        if name not in weights:
            setattr(model, name, network)
            continue
        fill_network(model.modules[name], {key: stored(tensor) for key, tensor in weights[name].items()})
    return model


def is_sharded(network: nn.Module) -> bool:
    """Return whether some weights of a network are shared out over ranks."""
    return any(isinstance(weight, DTensor) for weight in network.parameters())
