"""Floating-point operations: of one training example, counted on the network itself, and of a GPU at its best."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Batch = dict[str, Tensor]

_PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.4,
    "GH200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "A100": 312.0,
    "A40": 149.7,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 6000 Ada": 364.2,
    "RTX A6000": 154.8,
    "RTX 5090": 209.5,
    "RTX 5080": 112.6,
    "RTX 4090": 165.2,
    "RTX 4080": 97.5,
    "RTX 3090": 71.0,
    "RTX 3080": 59.5,
    "V100": 125.0,
    "T4": 65.0,
}
"""Dense 16-bit tensor-core rate with 32-bit sums, from NVIDIA's data sheets and architecture papers."""

_ONLY_FP16 = ("V100", "T4")
_NOT_THE_SAME = (" Laptop", " Max-Q", " Ti", " SUPER", " MIG ")
"""Words in a name that make it another card than the one in the table."""


def peak_flops(gpu: str | None, precision: str) -> float | None:
    """Return the FLOP/s that a GPU reaches at best, or None where it is not in the table.

    Args:
        gpu: Its name, as `torch.cuda.get_device_name` says it; None for a CPU.
        precision: `bf16` or `fp16`; plain fp32 mixes two kinds of unit, so it has no peak.
    """
    if gpu is None or precision not in ("bf16", "fp16") or any(word in gpu for word in _NOT_THE_SAME):
        return None
    words = f" {gpu.replace('-', ' ')} "
    for name in sorted(_PEAK_TFLOPS, key=len, reverse=True):
        if f" {name} " in words:
            return None if precision == "bf16" and name in _ONLY_FP16 else _PEAK_TFLOPS[name] * 1e12
    return None


def count_flops(objective: nn.Module, batch: Batch, autocast: Callable[[], Any]) -> float:
    """Return the FLOPs of the forward and backward pass of one example: 2 for each multiply and add.

    The first example of a batch goes through, since what is skipped for frozen weights depends on the graph; as shapes without
    values, which takes no memory, but for weights that are shared out over ranks. Gradient checkpointing is off meanwhile:
    work done twice is no progress (Chowdhery et al. 2022, appendix B, of MFU).

    Args:
        objective: From batch to loss; its gradients are cleared afterwards.
        batch: Tensors with the example first.
        autocast: The context that training computes in.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    shared_out = any(hasattr(parameter, "device_mesh") for parameter in objective.parameters())  # as DTensors have
    shapes = contextlib.nullcontext() if shared_out else FakeTensorMode(allow_non_fake_inputs=True)
    with torch.compiler.set_stance("force_eager"), without_checkpointing(objective), shapes as fake, counter:
        first = {key: value[:1] if fake is None else fake.from_tensor(value[:1]) for key, value in batch.items()}
        with autocast():
            loss = objective(first)
        loss.backward()
    for parameter in objective.parameters():
        parameter.grad = None
    return float(counter.get_total_flops())


@contextlib.contextmanager
def without_checkpointing(network: nn.Module) -> Iterator[None]:
    """Turn gradient checkpointing off for the length of a block."""
    on = [module for module in network.modules() if getattr(module, "gradient_checkpointing", False)]
    for module in on:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in on:
            module.gradient_checkpointing = True  # type: ignore[assignment]


def _cpu_attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _cpu_attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}
"""torch counts the attention kernels of GPUs only."""
