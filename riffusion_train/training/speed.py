"""How fast a run is: images and seconds of audio a second, the share of the GPU's peak, waiting for data, memory."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from riffusion_train.training.flops import peak_flops


class Speedometer:
    """Counts steps and time between two readings. Nothing here waits for the device.

    Args:
        device: Where this rank trains.
        precision: `no`, `fp16` or `bf16`.
        images_per_step: Slices of one optimizer step over all ranks.
        world_size: Ranks.
        clip_s: Seconds of audio of one slice.
    """

    def __init__(
        self, device: torch.device, precision: str, *, images_per_step: int, world_size: int, clip_s: float
    ) -> None:
        self.device = device
        self.images_per_step = images_per_step
        self.world_size = world_size
        self.clip_s = clip_s
        self.flops_per_image: float | None = None
        self.peak_flops = peak_flops(torch.cuda.get_device_name(device) if device.type == "cuda" else None, precision)
        self.restart()

    def restart(self) -> None:
        """Begin a new interval now."""
        self._since = time.perf_counter()
        self._paused_s = self._waited_s = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a block as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave a block out of the interval: what is done now and then, such as a preview or a checkpoint."""
        start = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - start

    def read(self, steps: int) -> dict[str, float | None]:
        """Return the figures of the interval and begin the next. Call it after something that waited for the device.

        Args:
            steps: Optimizer steps of the interval.

        Returns:
            Rates over all ranks, and this rank's waiting and memory. `mfu_percent` is the share of the GPU's peak that
            the network's own FLOPs come to (Chowdhery et al. 2022); None where the peak is not known.
        """
        seconds = max(time.perf_counter() - self._since - self._paused_s, 1e-9)
        images_per_s = steps * self.images_per_step / seconds
        flops = None if self.flops_per_image is None else images_per_s / self.world_size * self.flops_per_image
        figures = {
            "step_s": seconds / max(steps, 1),
            "images_per_s": images_per_s,
            "audio_s_per_s": images_per_s * self.clip_s,
            "tflops_per_s": None if flops is None else flops / 1e12,
            "mfu_percent": None if flops is None or self.peak_flops is None else 100 * flops / self.peak_flops,
            "data_wait_percent": 100 * min(self._waited_s / seconds, 1.0),
            "peak_memory_gib": peak_memory_bytes(self.device) / 2**30,
        }
        self.restart()
        return figures


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory ever held: tensors on a GPU, everything of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # what `getrusage` tells may be of the program that started this one
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
