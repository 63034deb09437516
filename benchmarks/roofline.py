"""`python -m benchmarks roofline`: what a training step of SD 1.5 costs, counted, and how long it would take GPUs, an estimate.

One step of full fine-tuning is done with fake tensors: they have shapes and dtypes but no numbers, so that any machine counts
the batch of a large GPU in seconds and in little memory. Counted are floating-point operations, bytes that each operation
reads and writes, and operations, each a kernel or more. Autocast is that of CUDA, which computes normalisation in fp32.

The time of a GPU is then the roofline's (Williams, Waterman and Patterson 2009): of each operation the longer one of its FLOPs
over the peak and its bytes over the bandwidth, both times the shares of them that large kernels reach (`MATMUL_SHARE`,
`MEMORY_SHARE`: assumptions). Nothing here was measured on a GPU.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.report import Row
from riffusion_train.config.compose import compose
from riffusion_train.config.train import TrainConfig
from riffusion_train.model.components import freeze, unfreeze
from riffusion_train.model.loading import make_components
from riffusion_train.model.lora import add_lora
from riffusion_train.training.objective import DiffusionObjective

MATMUL_SHARE = 0.65
"""Of the peak, what convolutions, products and attention of these sizes are assumed to reach."""
MEMORY_SHARE = 0.85
"""Of the bandwidth, what a pass over a tensor is assumed to reach."""
LAUNCH_S = 5e-6
"""What the host is assumed to need to queue an operation."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU, by its data sheet: dense bf16 with fp32 sums, and memory."""

    name: str
    peak_flops: float
    bandwidth: float


GPUS = (
    Gpu("A100 80 GB", 312e12, 2.04e12),
    Gpu("H100 SXM", 989e12, 3.35e12),
    Gpu("H200", 989e12, 4.8e12),
    Gpu("RTX 4090", 165e12, 1.01e12),
)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a step."""

    name: str
    flops: float
    bytes: float


@dataclasses.dataclass(frozen=True)
class Step:
    """The counted operations of a step."""

    batch_size: int
    operations: Sequence[Operation]
    update_bytes: float
    """What clipping, AdamW and EMA read and write: it does not depend on the batch."""

    @property
    def flops(self) -> float:
        """Of both passes."""
        return sum(one.flops for one in self.operations)

    @property
    def product_bytes(self) -> float:
        """Of convolutions, products and attention."""
        return sum(one.bytes for one in self.operations if one.flops)

    @property
    def other_bytes(self) -> float:
        """Of what has no products: normalisation, activations, sums, casts."""
        return sum(one.bytes for one in self.operations if not one.flops)

    def seconds(self, gpu: Gpu, *, fused: float = 0.0) -> float:
        """Return the time of a step on a GPU: an estimate.

        Args:
            gpu: The GPU.
            fused: The share of the other bytes that a compiler saves, by keeping numbers between operations in registers.
        """
        bandwidth, peak = MEMORY_SHARE * gpu.bandwidth, MATMUL_SHARE * gpu.peak_flops
        products = sum(max(one.flops / peak, one.bytes / bandwidth) for one in self.operations if one.flops)
        return products + ((1 - fused) * self.other_bytes + self.update_bytes) / bandwidth


FUSED_SHARE = 0.5
"""Of the other bytes, what a compiler is assumed to save: a normalisation still reads its input twice."""


def count_step(
    batch_size: int,
    *,
    lora: bool = False,
    checkpointing: bool = False,
    fp32_norms: bool = True,
    model: Sequence[str] = (),
) -> Step:
    """Count a step.

    Args:
        batch_size: Images.
        lora: Train adapters of rank 16 instead of all weights.
        checkpointing: With gradient checkpointing.
        fp32_norms: Whether normalisation computes in fp32, as under CUDA's autocast.
        model: Overrides of the model's config, for a smaller one.
    """
    config = compose("train", TrainConfig, ["dataset=none", "model=sd15_random", *model])
    size, width = config.model.sample_size, config.model.text_hidden_size
    with torch.device("meta"):
        components = make_components(config.model, seed=0)
        freeze(components)
        unet = components.unet
        if lora:
            add_lora(unet, rank=16, alpha=16.0, seed=0, target_modules=config.method.lora_target_modules)
        else:
            unfreeze(unet)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    for module in unet.modules():
        if fp32_norms and isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.register_forward_pre_hook(_in_fp32)
    unet.train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        unet.to_empty(device="cpu")
        objective = DiffusionObjective(
            unet, None, components.vae, components.scheduler, snr_gamma=None, train_text_encoder=False
        )
        shape = (batch_size, 4, size, size)
        batch = {
            "moments": torch.empty(batch_size, 8, size, size),
            "latent_noise": torch.empty(shape),
            "noise": torch.empty(shape),
            "timestep": torch.empty(batch_size, dtype=torch.long),
            "hidden_states": torch.empty(batch_size, 77, width),
        }
        with _Counter() as counter:
            with torch.autocast("cpu", torch.bfloat16):
                loss = objective(batch)
            loss.backward()
        trained = sum(weight.numel() for weight in unet.parameters() if weight.requires_grad)
    # The norm reads 4 bytes of each gradient; scaling reads and writes them; AdamW reads weight, gradient and two moments and
    # writes three of them; EMA reads two and writes one.
    update = 4 * trained * (1 + 2 + 7 + (0 if lora else 3))
    return Step(batch_size, tuple(counter.operations), update)


def _in_fp32(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give a normalisation fp32, as CUDA's autocast does and the CPU's does not."""
    return tuple(one.float() for one in inputs)


class _Counter(TorchDispatchMode):
    """Notes the FLOPs and bytes of every operation that does something."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::").split(".")[0]
        read, written = _tensors((args, kwargs)), _tensors(result)
        if name in _FREE or _is_view(func) or not written:
            return result
        moved = sum(one.numel() * one.element_size() for one in (*read, *written))
        count = _FLOPS.get(name)
        self.operations.append(Operation(name, 0.0 if count is None else count(args, result), moved))
        return result


_FREE = (
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "lift_fresh",
    "_unsafe_view",
    "new_empty",
    "new_empty_strided",
)


def _is_view(func: Any) -> bool:
    """Whether an operation only looks at memory in another way, or moves nothing."""
    return any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)


def _tensors(values: Any) -> list[Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, Tensor)]


def _convolution(args: Any, result: Any) -> float:
    # Every number of the result is a product with one filter, weight[0]: (in / groups, height, width).
    return 2.0 * result.numel() * args[1][0].numel()


def _convolution_backward(args: Any, result: Any) -> float:
    gradient, _, weight = args[:3]
    return 2.0 * gradient.numel() * weight[0].numel() * sum(one is not None for one in result[:2])


def _product(args: Any, result: Any) -> float:
    return 2.0 * result.numel() * args[-2].shape[-1]


def _attention(args: Any, result: Any) -> float:
    query, key, value = args[:3]
    return 2.0 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _attention_backward(args: Any, result: Any) -> float:
    return 2.5 * _attention(args[1:], result)  # five products, where the forward pass has two


_FLOPS: Mapping[str, Callable[[Any, Any], float]] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "mm": _product,
    "bmm": _product,
    "addmm": _product,
    "baddbmm": _product,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Count every case.

    Args:
        quick: A tiny model, to show that it runs.
        max_clips: Images of a batch instead of 32.
    """
    small = ["model=tiny"] if quick else []
    size = max_clips or (2 if quick else 32)
    rows: list[Row] = []
    needed = 0.0  # FLOPs without those that checkpointing repeats, which MFU does not count
    for what, options in _CASES.items():
        step = count_step(size, model=small, **options)
        needed = needed if options.get("checkpointing") else step.flops
        begin = f"{what}, batch {size}"
        rows += [
            Row(f"{begin}: products", "TFLOP an image", [step.flops / size / 1e12]),
            Row(f"{begin}: bytes of products", "GB an image", [step.product_bytes / size / 1e9]),
            Row(f"{begin}: bytes of all other operations", "GB an image", [step.other_bytes / size / 1e9]),
            Row(f"{begin}: bytes of clipping, AdamW and EMA", "GB a step", [step.update_bytes / 1e9]),
            Row(f"{begin}: operations", "a step", [len(step.operations)]),
            Row(f"{begin}: queueing the operations, estimate", "s", [len(step.operations) * LAUNCH_S]),
        ]
        for gpu in GPUS:
            for how, fused in (("", 0.0), (", compiled", FUSED_SHARE)):
                seconds = step.seconds(gpu, fused=fused)
                rows += [
                    Row(f"{begin}: {gpu.name}{how}, estimate", "images/s", [size / seconds]),
                    Row(f"{begin}: {gpu.name}{how}, MFU, estimate", "%", [100 * needed / seconds / gpu.peak_flops]),
                ]
    return rows


_CASES: Mapping[str, Mapping[str, bool]] = {
    "full": {},
    "full, checkpointing": {"checkpointing": True},
    "full, norms in bf16": {"fp32_norms": False},
    "LoRA rank 16": {"lora": True},
}
