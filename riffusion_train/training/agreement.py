"""What all ranks must know of a step before a weight changes, learned without stalling the device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Agreement:
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
