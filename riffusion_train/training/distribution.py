"""Training in several processes: joining them, what they must agree on, and weights shared out between them (FSDP2)."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from riffusion_train.config.train import MethodName, OptimizerName, TrackerName, TrainConfig
from riffusion_train.model.components import Components
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.checks import check_precision, check_scaler
from riffusion_train.training.optimizer import check_optimizer
from riffusion_train.training.run_folder import RunFolder, new_run_path


class RankSync:
    """Whether every loss of a step is finite, and whether anyone was asked to stop; the same answer on every rank.

    The flags leave for the host before the last backward pass and are read after it was queued, so that the host waits for the
    forward pass alone and a GPU has the backward pass to do meanwhile.

    Args:
        accelerator: Accelerate's `Accelerator`.
    """

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        on_gpu = accelerator.device.type == "cuda"
        self._event = torch.cuda.Event() if on_gpu else None
        self._flags = torch.zeros(2, pin_memory=on_gpu)

    def send(self, losses: Sequence[Tensor], *, stop_asked: bool) -> None:
        """Give this rank's part: the losses of all its forward passes, scalars, and whether it was asked to stop."""
        broken = (~torch.stack(list(losses)).isfinite()).any().float()
        asked = torch.full_like(broken, float(stop_asked))
        total = self._accelerator.reduce(torch.stack([broken, asked]), reduction="sum")
        self._flags.copy_(total, non_blocking=True)
        if self._event is not None:
            self._event.record()

    def receive(self) -> tuple[bool, bool]:
        """Return whether the losses of all ranks are finite, and whether to stop after this step."""
        if self._event is not None:
            self._event.synchronize()
        broken, asked = self._flags.tolist()
        return not broken, bool(asked)


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
    from riffusion_train.model.lazy import load_weights
    from riffusion_train.model.safetensors_io import in_memory

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
        load_weights(model.modules[name], {key: in_memory(tensor) for key, tensor in weights[name].items()})
    return model


def is_sharded(network: nn.Module) -> bool:
    """Return whether some weights of a network are shared out over ranks."""
    return any(isinstance(weight, DTensor) for weight in network.parameters())


_FSDP = "ACCELERATE_USE_FSDP"
_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"

_FIXED = {
    "FSDP_VERSION": ("1", "2", "fsdp_version: 2"),
    "FSDP_OFFLOAD_PARAMS": ("false", "false", "fsdp_offload_params: false, and more processes or a smaller batch"),
    "FSDP_RESHARD_AFTER_FORWARD": ("true", "true", "fsdp_reshard_after_forward: true"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "false",
        "false",
        "fsdp_activation_checkpointing: false and the key gradient_checkpointing=true",
    ),
}
"""Settings of Accelerate's FSDP that would change what is computed or held: what a missing one means, what is used, a mend."""


def start_processes(config: TrainConfig) -> tuple[Any, RunFolder]:
    """Join the other processes, agree on the run folder, and set up the tracker.

    Raises:
        InputError: If this device cannot compute in the precision that was asked for, or the launch shares out the weights in a
            way that cannot be had.
    """
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration, broadcast_object_list

    check_launch(config)
    if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # of a run before in the same process, a notebook's
    # Unless told so, accelerate takes each of several CPU ranks for the only one.
    on_cpu = not torch.accelerator.is_available()
    precision = config.mixed_precision
    with _without_accelerates_fsdp():
        processes = PartialState(cpu=on_cpu)
        check_precision(precision, processes.device)
        check_optimizer(config, processes.device)
        path = [new_run_path(config)]
        if processes.num_processes > 1:
            broadcast_object_list(path)
        run = RunFolder(path[0])
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision=precision.value,
            log_with=None if config.tracker.name is TrackerName.files else config.tracker.name.value,
            project_config=ProjectConfiguration(project_dir=str(run.path), logging_dir=str(run.path)),
        )
    check_scaler(precision, accelerator.scaler)
    return accelerator, run


def weights_are_shared(accelerator: Any) -> bool:
    """Whether the launch shares out the trained weights between several processes."""
    return _asked_for(_FSDP) and accelerator.num_processes > 1


def check_launch(config: TrainConfig) -> None:
    """Refuse a launch that shares out the weights in a way that cannot be had, or for what does not go with it.

    Raises:
        InputError: With the mend.
    """
    if _asked_for(_DEEPSPEED):
        raise InputError(
            "accelerate was told to use DEEPSPEED; take launch/fsdp.yaml, which shares out the weights as well"
        )
    if not _asked_for(_FSDP):
        return
    for name, (missing, wanted, mend) in _FIXED.items():
        value = os.environ.get(name, missing).lower()
        if value != wanted:
            raise InputError(f"{name.lower()}={value} is not used here; take launch/fsdp.yaml, or {mend} in yours")
    if config.method.name is MethodName.lora:
        raise InputError(
            "method=lora trains too few weights for FSDP to share out; take launch/multi_gpu.yaml, or method=full"
        )
    if config.optimizer.name is not OptimizerName.adamw:
        raise InputError(
            f"optimizer={config.optimizer.name.value} needs whole weights, which FSDP cuts up; take optimizer=adamw, or "
            "launch/multi_gpu.yaml"
        )
    if config.compile:
        raise InputError(
            "compile=true needs whole weights, which FSDP cuts up; take compile=false, or launch/multi_gpu.yaml"
        )


def _asked_for(name: str) -> bool:
    return os.environ.get(name, "").lower() == "true"


@contextlib.contextmanager
def _without_accelerates_fsdp() -> Iterator[None]:
    """Keep it from accelerate that FSDP was asked for: it would want to do it itself on a GPU, and DDP on a CPU."""
    asked = os.environ.pop(_FSDP, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[_FSDP] = asked
