"""Convolutions whose picture goes round along time: what they draw has no seam between its last column and its first."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


@contextlib.contextmanager
def circular_along_time(*networks: nn.Module) -> Iterator[None]:
    """Let the convolutions of networks see the other end of a picture beyond its sides; above and below it stays zero.

    Attention and group normalisation know no places along time, so the whole network then goes round: a picture that is
    turned by a multiple of its largest step comes out turned, and otherwise the same.
    """
    patched = [
        module
        for network in networks
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and _width(module.padding) > 0
    ]
    for module in patched:
        module._conv_forward = _circular_forward(module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in patched:
            del module._conv_forward


def _circular_forward(module: nn.Conv2d) -> Any:
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        height, width = (int(size) for size in module.padding)
        wrapped = F.pad(x, (width, width, 0, 0), mode="circular")
        return F.conv2d(wrapped, weight, bias, module.stride, (height, 0), module.dilation, module.groups)

    return forward


def _width(padding: Any) -> int:
    return 0 if isinstance(padding, str) else int(padding[1])
