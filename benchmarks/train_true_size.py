"""One forward and backward pass of SD 1.5 at its true size on a CPU: ours, and the pass of diffusers' script.

One image of 512 x 512 with random weights, one thread, without an optimizer step, whose moments would need 6.4 GiB more. The
model is made once, and each method runs in a forked process, so that peak memory is its own.
"""

import functools
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import Row
from benchmarks.timing import run_in_process
from benchmarks.train_worker import MODEL
from riffusion_train.config.compose import compose
from riffusion_train.config.train import TrainConfig
from riffusion_train.model.components import Components, freeze, unfreeze
from riffusion_train.model.loading import make_components
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.objective import DiffusionObjective
from riffusion_train.training.tracking import peak_memory_bytes

NEEDED_GIB = 10
"""Memory that a pass takes, with the weights: 4 GiB of weights, 3.2 of gradients, 2 of activations."""


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Measure these rows alone.

    Args:
        quick: A small model, to show that it runs.
        max_clips: Nothing depends on it: there is one image.

    Raises:
        InputError: If there is too little free memory.
    """
    rows = true_size_rows(quick=quick)
    if not rows:
        raise InputError(f"{NEEDED_GIB} GiB of free memory are needed, and there are {_free_gib():.1f}")
    return rows


def true_size_rows(*, quick: bool) -> list[Row]:
    """Measure; with `quick` the small model of the other rows. Without enough free memory there are no rows."""
    if not quick and _free_gib() < NEEDED_GIB:
        print(
            f"SD 1.5's true size is left out: it needs {NEEDED_GIB} GiB of free memory, and there are {_free_gib():.1f}"
        )
        return []
    torch.set_num_threads(1)
    config = compose("train", TrainConfig, ["dataset=none", *(MODEL if quick else ["model=sd15_random"])]).model
    parts = make_components(config, seed=0)
    freeze(parts)
    unfreeze(parts.unet)
    methods = ["caches on", "caches off", "diffusers"]
    methods += ["caches on, bf16"] if _has_bf16() else []
    _shared[:] = [parts]
    measured = {method: run_in_process(functools.partial(_measure, method)) for method in methods}
    _shared.clear()
    seconds = {method: [one["seconds"]] for method, one in measured.items()}
    memory = {method: [one["peak_bytes"] / 2**30] for method, one in measured.items()}
    rows = []
    for method in methods:
        if method == "diffusers":
            continue
        begin = f"SD 1.5's true size, a pass of one image, {method}"
        rows += [
            Row(f"{begin}: speed", "images per CPU s", [1 / seconds[method][0]], [1 / seconds["diffusers"][0]]),
            Row(f"{begin}: peak memory", "GiB", memory[method], memory["diffusers"]),
        ]
    return rows


_shared: list[Components] = []
"""What the forked processes share with this one."""


def _measure(method: str) -> dict[str, Any]:
    parts = _shared[0]
    batch = _batch(parts)
    if method != "diffusers":  # the layout that our trainer takes at its start
        parts.unet.to(memory_format=torch.channels_last)
        parts.vae.to(memory_format=torch.channels_last)
    start = time.process_time()
    loss = _diffusers(parts, batch) if method == "diffusers" else _ours(parts, batch, method)
    loss.backward()
    seconds = time.process_time() - start
    assert bool(loss.isfinite())
    return {"seconds": seconds, "peak_bytes": peak_memory_bytes(torch.device("cpu"))}


def _batch(parts: Components) -> dict[str, Tensor]:
    size = int(parts.unet.config.sample_size)
    side = size * parts.downsampling
    generator = torch.Generator().manual_seed(0)
    return {
        "pixels": torch.rand(1, 3, side, side, generator=generator) * 2 - 1,
        "moments": torch.randn(1, 8, size, size, generator=generator) * 0.1,
        "latent_noise": torch.randn(1, 4, size, size, generator=generator),
        "noise": torch.randn(1, 4, size, size, generator=generator),
        "timestep": torch.tensor([500]),
        "input_ids": torch.randint(0, 300, (1, 77), generator=generator),
        "hidden_states": torch.randn(1, 77, int(parts.unet.config.cross_attention_dim), generator=generator),
    }


def _ours(parts: Components, batch: dict[str, Tensor], method: str) -> Tensor:
    objective = DiffusionObjective(
        parts.unet, parts.text_encoder, parts.vae, parts.scheduler, snr_gamma=None, train_text_encoder=False
    )
    left_out = ("moments", "hidden_states") if method == "caches off" else ("pixels", "input_ids")
    with torch.autocast("cpu", torch.bfloat16, enabled=method.endswith("bf16")):
        loss: Tensor = objective({key: value for key, value in batch.items() if key not in left_out})
    return loss


def _diffusers(parts: Components, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of a step as `train_text_to_image.py` computes it by default."""
    parts.unet.train()
    latents = parts.vae.encode(batch["pixels"]).latent_dist.sample() * parts.vae.config.scaling_factor
    noisy = parts.scheduler.add_noise(latents, batch["noise"], batch["timestep"])
    states = parts.text_encoder(batch["input_ids"], return_dict=False)[0]
    prediction = parts.unet(noisy, batch["timestep"], states, return_dict=False)[0]
    return F.mse_loss(prediction.float(), batch["noise"].float(), reduction="mean")


def _has_bf16() -> bool:
    path = Path("/proc/cpuinfo")
    return path.is_file() and any(flag in path.read_text() for flag in ("avx512_bf16", "amx_bf16"))


def _free_gib() -> float:
    path = Path("/proc/meminfo")
    if not path.is_file():
        return float("inf")
    line = next(line for line in path.read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) / 2**20
