"""Training in one process or in several, DDP or FSDP2, behind one object: `Distribution`."""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from riffusion_train.model.components import Components, build_skeleton
from riffusion_train.model.weights import in_memory, load_weights
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.runtime.progress import ProgressReport
from riffusion_train.training.rank_watch import RankWatch, watch_ranks

Value = TypeVar("Value")

_ENDED_GROUPS: list[Any] = []
"""Kept until the process exits. DDP would else be the last to let go of the group: it would wait for gloo's thread and hold
Python's lock, which that thread may be waiting for."""


class Distribution:
    """The processes (ranks) that train together. Callers do the same on every rank, however many there are.

    One process holds everything. With DDP every rank holds all weights and averages the gradients. With FSDP2 (`fully_shard`)
    every rank holds a part, a *shard*, of each trained weight: what is written to disk is gathered, what is read is sharded.
    Methods that communicate say "all ranks join": every rank must call them, in the same order.

    Args:
        accelerator: Accelerate's `Accelerator`.
        watch: Ends this process when another rank is silent; None with one process.
    """

    def __init__(self, accelerator: Any, watch: RankWatch | None = None) -> None:
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.world_size: int = accelerator.num_processes
        self._sync = RankSync(accelerator)
        self._watch = watch
        self._stop_agreed = False

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return int(self.accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this is the first rank, which writes files; the training loop does not ask."""
        return bool(self.accelerator.is_main_process)

    # --- What one rank does for all -----------------------------------------------------------------------------------

    def on_main(self, work: Callable[[], object]) -> None:
        """Do something on the first rank alone; the others wait until it is done. All ranks join."""
        if self.is_main:
            work()
        self.wait()

    def from_main(self, ask: Callable[[], Value]) -> Value:
        """Return the first rank's answer on every rank. All ranks join."""
        return broadcast(ask(), self.world_size)

    def run_together(self, work: Callable[[], None]) -> None:
        """Do this rank's part, and end every rank with the first problem of any: none waits for one that left. All ranks join.

        Raises:
            InputError: If `work` raised it on any rank.
            StoppedError: If `work` raised it on any rank.
        """
        run_together(work)

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.accelerator.wait_for_everyone()

    def print(self, text: str) -> None:
        """Print a line once."""
        self.accelerator.print(text)

    def progress(self, title: str, total: int, *, done: int) -> ProgressReport:
        """Return a progress report that shows on the first rank."""
        return ProgressReport(title, total, done=done, enabled=self.is_main)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values to the tracker."""
        self.accelerator.log(values, step=step)

    def end(self) -> None:
        """Close the tracker once all ranks are here."""
        self.wait()
        if torch.distributed.is_initialized():
            _ENDED_GROUPS.append(torch.distributed.group.WORLD)
        self.accelerator.end_training()
        if self._watch is not None:
            self._watch.stop()

    # --- A step of training -------------------------------------------------------------------------------------------

    def shard(self, components: Components) -> None:
        """Shard the weights of the networks that are trained, in place, where FSDP was asked for; all ranks join."""
        if fsdp_requested() and self.world_size > 1:
            shard_components(components, self.device, self.world_size)

    def prepare(
        self, objective: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return what to train with: sharded networks reduce their own gradients, all others go into DDP."""
        if is_sharded(objective):
            return objective, self.accelerator.prepare(optimizer)
        prepared: tuple[nn.Module, torch.optim.Optimizer] = self.accelerator.prepare(objective, optimizer)
        return prepared

    def unwrap(self, objective: nn.Module) -> nn.Module:
        """Return the objective without DDP around it."""
        unwrapped: nn.Module = self.accelerator.unwrap_model(objective)
        return unwrapped

    def autocast(self) -> Any:
        """Return the context that forward passes compute in: fp32, or a mixed precision."""
        return self.accelerator.autocast()

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a scalar loss, scaled with fp16."""
        self.accelerator.backward(loss)

    def gradient_sync(self, objective: nn.Module, *, wanted: bool) -> Any:
        """Return the context of a backward pass after which the ranks average their gradients, or do not yet."""
        return contextlib.nullcontext() if wanted else self.accelerator.no_sync(objective)

    def clip_gradients(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the gradients down to a norm; return the norm they had, a scalar. All ranks join."""
        return whole(torch.as_tensor(self.accelerator.clip_grad_norm_(parameters, max_norm)))

    @property
    def scaler(self) -> Any | None:
        """The gradient scaler of fp16; None in other precisions."""
        return self.accelerator.scaler

    def send_flags(self, losses: Sequence[Tensor], *, stop_asked: bool) -> None:
        """Tell the other ranks whether this one's losses are finite and whether it was asked to stop; see `RankSync`."""
        self._sync.send(losses, stop_asked=stop_asked)

    def receive_flags(self) -> bool:
        """Return whether the losses of all ranks are finite."""
        finite, self._stop_agreed = self._sync.receive()
        return finite

    def stops_now(self, *, stop_asked: bool) -> bool:
        """Whether all ranks stop after this step. One process sees a request that came after it sent its flags, too."""
        return stop_asked if self.world_size == 1 else self._stop_agreed

    # --- Numbers of all ranks -----------------------------------------------------------------------------------------

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a value over the ranks, on every rank. All ranks join."""
        mean: Tensor = self.accelerator.reduce(value, reduction="mean")
        return mean

    def gather_rows(self, row: Tensor) -> Tensor:
        """Return the rows of all ranks, (world size, …), on every rank. All ranks join."""
        rows: Tensor = self.accelerator.gather(row[None])
        return rows

    def map_shared(self, function: Callable[[int], Tensor], count: int) -> Tensor:
        """Return `function(k)` for k below `count`, (count, …), on the CPU of every rank. All ranks join.

        Rank r computes k = r, r + world size, …. All ranks take equally many turns, since sharded weights are gathered by all
        of them together; the last turns may repeat early items, whose values are dropped.
        """
        turns = -(-count // self.world_size)
        rows = [function((turn * self.world_size + self.rank) % count) for turn in range(turns)]
        gathered: Tensor = self.accelerator.gather(torch.stack(rows))  # (world size * turns, …), rank after rank
        by_turn = gathered.reshape(self.world_size, turns, *gathered.shape[1:]).transpose(0, 1)
        return by_turn.flatten(0, 1)[:count].cpu()

    # --- Weights and what is kept for each of them --------------------------------------------------------------------

    def local_parameters(self, weights: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Return this rank's shards of the weights, as plain parameters that share their memory.

        Ask anew for every use: the memory moves when a network is first used.
        """
        return [nn.Parameter(local_shard(weight)) if isinstance(weight, DTensor) else weight for weight in weights]

    def collect(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors in one piece on the first rank, and nothing on the others. All ranks join."""
        return gather(tensors, keep=self.is_main)

    def collect_shards(
        self, names: Sequence[str], shards: Iterable[Tensor], weights: Sequence[nn.Parameter]
    ) -> dict[str, Tensor]:
        """Return what `collect` does, of tensors that are shaped as `local_parameters`; there may be none."""
        return self.collect(dict(zip(names, as_sharded(shards, weights), strict=False)))

    def like_weight(self, tensor: Tensor, weight: Tensor) -> Tensor:
        """Return a copy of a whole tensor as this rank keeps a weight of its shape: its layout, device and shard."""
        return like_weight(tensor, weight)

    def local_like(self, tensor: Tensor, weight: Tensor) -> Tensor:
        """Return this rank's shard of a whole tensor as a plain tensor, cut as a weight of its shape is."""
        return local_shard(like_weight(tensor, weight))

    def is_sharded(self, network: nn.Module) -> bool:
        """Whether some weights of a network are sharded over ranks."""
        return is_sharded(network)

    def whole_model(self, components: Components) -> Components:
        """Return a model that the first rank can use while the others wait. All ranks join.

        Where nothing is sharded it is the model itself, else a copy of the sharded networks on the first rank, on the CPU.
        """
        sharded = {name: network for name, network in components.modules.items() if is_sharded(network)}
        weights = {name: self.collect(network.state_dict()) for name, network in sharded.items()}
        if not (sharded and self.is_main):
            return components
        configs: dict[str, Any] = {
            "vae": components.vae.config,
            "text_encoder": components.text_encoder.config.to_dict(),
            "unet": components.unet.config,
        }
        model = build_skeleton(
            configs,
            components.tokenizer,
            components.scheduler,
            spectrogram=components.spectrogram,
            source=components.source,
            sampling=components.sampling,
            prompts=components.prompts,
        )
        for name, network in components.modules.items():
            if name in weights:
                load_weights(model.modules[name], {key: in_memory(tensor) for key, tensor in weights[name].items()})
            else:
                setattr(model, name, network)
        return model


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
        # A sum over ranks is above zero where any of them raised its flag.
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
"""Modules whose weights are gathered, used and freed at once: small enough for a small GPU, large enough for the network."""


def shard_components(components: Components, device: torch.device, world_size: int) -> None:
    """Shard the weights of the networks that are trained, in place; frozen networks stay whole on every rank.

    The VAE's halves are sharded one by one, since it is entered by `encode` and `decode`, which `fully_shard` does not hook.
    All units are freed after every forward pass, the outermost too: training would go on with the weights of a measurement.

    Args:
        components: The model, on its device; every rank must have the same weights.
        device: Where it is.
        world_size: Number of ranks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world_size,))
    for network in (components.unet, components.text_encoder, *components.vae.children()):
        if not any(weight.requires_grad for weight in network.parameters()):
            continue
        network.to(memory_format=torch.contiguous_format)  # what is sharded must be contiguous
        units = [module for module in network.modules() if type(module).__name__ in _UNITS]
        for module in (*reversed(units), network):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)


def is_sharded(network: nn.Module) -> bool:
    """Return whether some weights of a network are sharded over ranks."""
    return any(isinstance(weight, DTensor) for weight in network.parameters())


def local_shard(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor, sharing its memory, out of the graph; all of it where it is not sharded."""
    own = tensor.detach()
    return own.to_local() if isinstance(own, DTensor) else own


def as_sharded(shards: Iterable[Tensor], weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return tensors shaped as `local_parameters` as shards of whole ones, cut as the weights are; there may be none."""
    return [
        DTensor.from_local(
            shard.detach(),
            weight.device_mesh,
            weight.placements,
            run_check=False,
            shape=weight.shape,
            stride=weight.stride(),
        )
        if isinstance(weight, DTensor)
        else shard
        for shard, weight in zip(shards, weights, strict=False)
    ]


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor in one piece. All ranks join."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Return the tensors in one piece, those that were sharded on the CPU. All ranks join.

    Args:
        tensors: By name; the same names in the same order on every rank.
        keep: Whether this rank gets them; the others get nothing, and hold one at a time.
    """
    gathered = {}
    for name, tensor in tensors.items():
        one = whole(tensor)
        if keep:
            gathered[name] = one.detach().cpu() if isinstance(tensor, DTensor) else tensor
    return gathered


def like_weight(tensor: Tensor, weight: Tensor) -> Tensor:
    """Return a copy of a whole tensor in the memory layout and on the device of a weight of its shape: this rank's shard."""
    like = torch.empty_like(weight, dtype=tensor.dtype, requires_grad=False)
    if not isinstance(like, DTensor):
        return like.copy_(tensor)
    rank, count = like.device_mesh.get_local_rank(), like.device_mesh.size()
    shards = tensor.chunk(count)  # along rows, as `Shard(0)`; fewer shards where there are fewer rows than ranks
    like.to_local().copy_(shards[rank] if rank < len(shards) else tensor[:0])
    return like


def run_together(work: Callable[[], None]) -> None:
    """Do this rank's part; see `Distribution.run_together`."""
    from accelerate.utils import gather_object

    problem: Exception | None = None
    try:
        work()
    except (InputError, StoppedError) as error:
        problem = error
    for met in gather_object([problem]):
        if met is not None:
            raise met


def broadcast(value: Value, world_size: int) -> Value:
    """Return the first rank's value on every rank. All ranks join."""
    from accelerate.utils import broadcast_object_list

    values = [value]
    if world_size > 1:
        broadcast_object_list(values)
    return values[0]


_FSDP = "ACCELERATE_USE_FSDP"


def fsdp_requested() -> bool:
    """Whether the launch asked for FSDP, by Accelerate's environment variable."""
    return os.environ.get(_FSDP, "").lower() == "true"


_COLLECTIVE_S = 1800.0
"""The longest that ranks wait for each other, gloo's default: longer than a preview, and than what `RankWatch` allows."""


def join_processes(rank_timeout_s: float) -> tuple[torch.device, int]:
    """Join the other processes of the launch, where there are any; return this one's device and their number.

    Args:
        rank_timeout_s: The longest silence of a rank, which is noticed before a collective gives up.
    """
    from accelerate import PartialState
    from accelerate.state import AcceleratorState

    if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run in the same process, a notebook's
    with _without_accelerates_fsdp():
        longest = datetime.timedelta(seconds=max(_COLLECTIVE_S, 2 * rank_timeout_s))
        processes = PartialState(cpu=_on_cpu(), timeout=longest)
    return processes.device, processes.num_processes


def make_distribution(run: Path, *, rank_timeout_s: float, static_graph: bool, **options: Any) -> Distribution:
    """Make the `Distribution` of processes that have joined.

    Args:
        run: Where trackers write.
        rank_timeout_s: The longest silence of a rank.
        static_graph: Whether every backward pass sends the gradients of the same weights, in the same order.
        options: Those of Accelerate's `Accelerator`.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration

    project = ProjectConfiguration(project_dir=str(run), logging_dir=str(run))
    # Gradients lie in the memory that is sent: no second copy of them, 3.2 GiB of Stable Diffusion 1.5's.
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True, static_graph=static_graph)
    with _without_accelerates_fsdp():
        accelerator = Accelerator(cpu=_on_cpu(), project_config=project, kwargs_handlers=[ddp], **options)
    return Distribution(accelerator, watch_ranks(accelerator.process_index, accelerator.num_processes, rank_timeout_s))


def _on_cpu() -> bool:
    # Unless it is told, Accelerate takes each of several CPU ranks for the only one.
    return not torch.accelerator.is_available()


@contextlib.contextmanager
def _without_accelerates_fsdp() -> Iterator[None]:
    """Hide from Accelerate that FSDP was asked for: it would shard by itself on a GPU, and use DDP on a CPU."""
    asked = os.environ.pop(_FSDP, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[_FSDP] = asked
