"""Metrics of a run: how fast it is, and where all figures go: `metrics.jsonl`, a tracker if asked for, a line on the terminal.

The speed is images and seconds of audio a second, FLOPs and the share of the GPU's peak, and memory.
"""

import contextlib
import enum
import json
import math
import os
import re
import resource
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from riffusion_train.config.train import TrackerConfig, TrackerName
from riffusion_train.runtime.files import write_atomically
from riffusion_train.sampling.clip import Clip
from riffusion_train.training.distribution import Distribution
from riffusion_train.training.run_folder import append_line, read_lines, reporting

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
_OTHER_MODELS = (" Laptop", " Max-Q", " Ti", " SUPER", " MIG ")
"""Parts of a name that make it another GPU than the one in the table."""


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
        """Leave a block out of the interval: occasional work, such as a preview or a checkpoint."""
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
    if status.is_file():  # `getrusage` may report the peak of the program that started this one
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_flops(gpu: str | None, precision: str) -> float | None:
    """Return the FLOP/s that a GPU reaches at best, or None where it is not in the table.

    Args:
        gpu: Its name, as `torch.cuda.get_device_name` says it; None for a CPU.
        precision: `bf16` or `fp16`; plain fp32 mixes two kinds of unit, so it has no peak.
    """
    if gpu is None or precision not in ("bf16", "fp16") or any(word in gpu for word in _OTHER_MODELS):
        return None
    padded = f" {gpu.replace('-', ' ')} "
    for name in sorted(_PEAK_TFLOPS, key=len, reverse=True):
        if f" {name} " in padded:
            return None if precision == "bf16" and name in _ONLY_FP16 else _PEAK_TFLOPS[name] * 1e12
    return None


def count_flops(objective: nn.Module, batch: Batch, autocast: Callable[[], Any], *, sharded: bool = False) -> float:
    """Return the FLOPs of the forward and backward pass of one example: 2 for each multiply and add.

    Only a forward pass runs. A product of (m, k) and (k, n) takes 2 m k n FLOPs forward, and as many again for the gradient
    of each factor that needs one. Gradient checkpointing is off meanwhile: work done twice does not count (Chowdhery et al.
    2022, appendix B, on MFU).

    Args:
        objective: From batch to loss. Random numbers stay as they are, and gradients too, except those of sharded weights.
        batch: Tensors with the example first.
        autocast: The context that training computes in.
        sharded: Whether weights are sharded over ranks; all ranks join then.
    """
    first = {key: value[:1] for key, value in batch.items()}
    device = next(iter(first.values())).device
    forked = torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type)
    with torch.compiler.set_stance("force_eager"), _without_checkpointing(objective), forked, autocast():
        with _Products() as products:
            loss = objective(first)
        if sharded:
            loss.backward()  # FSDP expects one after each forward pass
            for parameter in objective.parameters():
                parameter.grad = None
    return float(products.flops)


class _Products(TorchFunctionMode):
    """Adds up the FLOPs of products and of the gradients of their factors."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if (count := _COUNTED.get(func)) is not None:
            self.flops += count(result, *args, **kwargs)
        return result


def _linear(result: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> int:
    # (…, in) @ (in, out)
    return 2 * result.numel() * weight.shape[1] * _times(rows, weight)


def _convolution(result: Tensor, image: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> int:
    # every number of the result is a product with one filter, weight[0]: (in / groups, height, width)
    return 2 * result.numel() * weight[0].numel() * _times(image, weight)


def _product(result: Tensor, one: Tensor, other: Tensor, **kwargs: Any) -> int:
    # (…, m, k) @ (…, k, n)
    return 2 * result.numel() * one.shape[-1] * _times(one, other)


def _sum_and_product(result: Tensor, start: Tensor, one: Tensor, other: Tensor, **kwargs: Any) -> int:
    return _product(result, one, other)


def _attention(result: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    """Two products; the kernels' backward pass has five, as it computes the scores a second time."""
    # query (…, L, D), key (…, S, D), value (…, S, V): scores (…, L, S), then scores @ value
    scores = math.prod(query.shape[:-1]) * key.shape[-2]
    forward = 2 * scores * (query.shape[-1] + value.shape[-1])
    return forward + (forward * 5 // 2 if result.requires_grad else 0)


def _times(*factors: Tensor) -> int:
    """Return how often a product is computed: forward, and for the gradient of each factor that needs one."""
    return 1 + (sum(factor.requires_grad for factor in factors) if torch.is_grad_enabled() else 0)


_COUNTED: dict[Any, Callable[..., int]] = {
    functional.linear: _linear,
    functional.conv1d: _convolution,
    functional.conv2d: _convolution,
    functional.scaled_dot_product_attention: _attention,
    torch.matmul: _product,
    torch.mm: _product,
    torch.bmm: _product,
    Tensor.matmul: _product,
    Tensor.__matmul__: _product,
    torch.addmm: _sum_and_product,
    torch.baddbmm: _sum_and_product,
}
"""The functions that the networks multiply with; a test compares the count with torch's own of both passes."""


@contextlib.contextmanager
def _without_checkpointing(network: nn.Module) -> Iterator[None]:
    """Turn gradient checkpointing off for the length of a block."""
    on = [module for module in network.modules() if getattr(module, "gradient_checkpointing", False)]
    for module in on:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in on:
            module.gradient_checkpointing = True  # type: ignore[assignment]


_FIGURES = {
    "loss": "loss {:.4f}",
    "images_per_s": "{:.3g} images/s",
    "audio_s_per_s": "{:.3g} s of audio/s",
    "mfu_percent": "MFU {:.1f} %",
    "data_wait_percent": "data wait {:.1f} %",
    "peak_memory_gib": "{:.1f} GiB",
}
"""The averages that are shown while a run is going."""


class MetricsLog:
    """Collects losses without waiting for the device, and writes averages when they are due.

    Args:
        path: `metrics.jsonl`.
        distribution: Averages over ranks, and feeds the tracker.
        speed: Measures the steps.
    """

    def __init__(self, path: Path, distribution: Distribution, speed: Speedometer) -> None:
        self.path = path
        self.distribution = distribution
        self.speed = speed
        self.last: dict[str, float | None] = {}
        self._losses: list[Tensor] = []

    def resume_at(self, step: int) -> None:
        """Drop the lines that a stopped run wrote after its last checkpoint."""
        if not (self.distribution.is_main and self.path.exists()):
            return
        rows, unreadable = read_lines(self.path)
        numbered = [row for row in rows if isinstance(row.get("step"), int)]
        unreadable += len(rows) - len(numbered)
        if unreadable:
            self.distribution.print(f"warning: {self.path}: {unreadable} of its lines cannot be read and are dropped")
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in numbered if row["step"] <= step))

    def add(self, loss: Tensor) -> None:
        """Take the loss of one step, a scalar on any device."""
        self._losses.append(loss.detach())

    def write(self, step: int, lr: float, grad_norm: Tensor, others: Mapping[str, Tensor]) -> None:
        """Average what was added since the last call over steps and ranks, and write it, with other figures of the step."""
        mean = self.distribution.mean(torch.stack(self._losses).mean())
        # Reading the loss waits for the device; only then does the clock say how long the steps took.
        values = {"loss": float(mean), "lr": lr, "grad_norm": float(grad_norm), **self.speed.read(len(self._losses))}
        values |= {name: float(figure) for name, figure in others.items()}
        self.last = values
        self._losses.clear()
        if self.distribution.is_main:
            append_line(self.path, {"step": step, **values})
        self.distribution.log({key: value for key, value in values.items() if value is not None}, step)

    def figures(self) -> str:
        """Return the last averages that are shown while a run is going, on one line; empty before the first."""
        return ", ".join(
            template.format(self.last[key]) for key, template in _FIGURES.items() if self.last.get(key) is not None
        )


_WANDB_ID_FILE = "wandb-id.txt"


def start_tracker(accelerator: Any, config: TrackerConfig, run: Path, values: Mapping[str, Any]) -> None:
    """Open the tracker of the config, and give it the run's settings. A resumed run continues its wandb run.

    Args:
        accelerator: Accelerate's `Accelerator`, made with `log_with`.
        config: Which tracker.
        run: The run folder: its name is the run's there, and wandb's files go into it.
        values: The settings by dotted key.
    """
    options: dict[str, Any] = {}
    settings: dict[str, Any] | None = {key: _plain(value) for key, value in values.items()}
    if config.name is TrackerName.files:
        settings = None
    elif config.name is TrackerName.tensorboard:  # takes no lists, and leaves out what is None
        settings = {key: str(value) if isinstance(value, list) else value for key, value in (settings or {}).items()}
    elif config.name is TrackerName.wandb:
        options = _wandb_options(config, run) if accelerator.is_main_process else {}
    elif config.name is TrackerName.trackio:
        options = {"name": run.name}
    with reporting(run):
        accelerator.init_trackers(config.project, config=settings, init_kwargs={config.name.value: options})


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it: the name of a choice, a number, a text, null, or a list of these."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, int | float | str | bool) else str(value)


def _wandb_options(config: TrackerConfig, run: Path) -> dict[str, Any]:
    """Return the arguments of `wandb.init`."""
    options: dict[str, Any] = {"dir": str(run), "name": run.name, "id": _wandb_id(run), "resume": "allow"}
    described = {"entity": config.entity, "group": config.group, "tags": config.tags, "notes": config.notes}
    return options | {key: value for key, value in described.items() if value}


def _wandb_id(run: Path) -> str:
    """Return the id of the run's wandb run, which is kept in its folder; one that wandb's agent has set comes first."""
    file = run / _WANDB_ID_FILE
    kept = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    known = os.environ.get("WANDB_RUN_ID") or (kept if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", kept) else "")
    if known != kept or not known:
        known = known or secrets.token_hex(4)
        with reporting(file):
            write_atomically(file, known + "\n")
    return known


def track_clips(accelerator: Any, clips: Mapping[str, Clip], step: int) -> None:
    """Send clips, image and sound, to every tracker. Called on the first rank.

    Args:
        accelerator: Accelerate's `Accelerator`.
        clips: By a name that stays the same from preview to preview.
        step: Optimizer steps done.
    """
    senders = {"tensorboard": _to_tensorboard, "wandb": _to_wandb, "trackio": _to_trackio}
    for tracker in accelerator.trackers:
        senders[tracker.name](tracker.tracker, clips, step)


def _to_tensorboard(writer: Any, clips: Mapping[str, Clip], step: int) -> None:
    for name, clip in clips.items():
        writer.add_image(f"spectrogram/{name}", clip.image, step, dataformats="HW" if clip.image.ndim == 2 else "HWC")
        writer.add_audio(f"audio/{name}", _mono(clip), step, sample_rate=clip.rate_hz)
        writer.add_text(f"prompt/{name}", clip.record.prompt, step)
    writer.flush()


def _to_wandb(run: Any, clips: Mapping[str, Clip], step: int) -> None:
    import wandb

    sent: dict[str, Any] = {}
    for name, clip in clips.items():
        prompt = clip.record.prompt
        sent[f"spectrogram/{name}"] = wandb.Image(clip.image, caption=prompt)
        sent[f"audio/{name}"] = wandb.Audio(clip.audio.T, sample_rate=clip.rate_hz, caption=prompt)
    run.log(sent, step=step)


def _to_trackio(run: Any, clips: Mapping[str, Clip], step: int) -> None:
    import trackio

    sent: dict[str, Any] = {}
    for name, clip in clips.items():
        prompt = clip.record.prompt
        image = clip.image if clip.image.ndim == 3 else np.repeat(clip.image[:, :, None], 3, axis=2)
        samples = (np.clip(clip.audio.T, -1, 1) * 32767).astype(np.int16)  # (samples, channels)
        sent[f"spectrogram/{name}"] = trackio.Image(image, caption=prompt)
        sent[f"audio/{name}"] = trackio.Audio(samples, sample_rate=clip.rate_hz, format="wav", caption=prompt)
    run.log(sent, step=step)


def _mono(clip: Clip) -> np.ndarray:
    """Return the audio as (1, samples), which is the only layout that TensorBoard's writer accepts."""
    return clip.audio.mean(axis=0, keepdims=True)
