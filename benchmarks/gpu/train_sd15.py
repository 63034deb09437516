"""`python -m benchmarks.gpu.train_sd15 [--quick] [steps=N] [out=DIR]`: how fast SD 1.5 trains on one GPU.

SD 1.5's real architecture with random weights and 64 x 64 latents in the project's training loop: cached moments, text encoded
in the step, fused AdamW, EMA, clipping. `--quick` trains a tiny model for two steps on any device.
"""

import dataclasses
import gc
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.command import measure_on_gpu
from benchmarks.report import Goal, Row, table
from riffusion_train.config.compose import compose
from riffusion_train.config.train import TrainConfig
from riffusion_train.model.components import freeze, unfreeze
from riffusion_train.model.loading import make_components
from riffusion_train.model.lora import add_lora
from riffusion_train.training.distribution import Distribution
from riffusion_train.training.objective import DiffusionObjective
from riffusion_train.training.optimizer import make_ema, make_optimizer, make_schedule, parameter_groups
from riffusion_train.training.run_folder import Checkpoints, TrainingState
from riffusion_train.training.throughput import Speedometer
from riffusion_train.training.tracking import MetricsLog
from riffusion_train.training.trainer import Intervals, Learning, Outputs, Trainer

H100 = "H100"
_TINY = [
    "model=tiny", "model.sample_size=8", "model.unet_block_out_channels=[16,16]", "model.unet_attention_levels=[true,false]",
    "model.unet_norm_num_groups=8", "model.vae_block_out_channels=[8,8]", "model.text_hidden_size=16",
    "model.text_intermediate_size=16", "model.text_num_hidden_layers=1", "model.text_num_attention_heads=2",
]  # fmt: skip
_INTERVALS = 3
_CLIP_S = 5.11


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to train."""

    batch_size: int
    lora: bool = False
    checkpointing: bool = False
    compiled: bool = False
    channels_last: bool = True
    precision: str = "bf16"

    @property
    def what(self) -> str:
        """Its description, the start of the names of its rows."""
        parts = [
            "LoRA rank 16" if self.lora else "full fine-tuning with EMA",
            self.precision,
            f"batch {self.batch_size}",
        ]
        parts += ["checkpointing"] if self.checkpointing else []
        parts += ["compiled"] if self.compiled else []
        parts += [] if self.channels_last else ["channels first"]
        return ", ".join(parts)


CASES = (
    Case(8), Case(16), Case(32),
    Case(32, checkpointing=True), Case(32, compiled=True), Case(32, checkpointing=True, compiled=True),
    Case(32, channels_last=False), Case(8, precision="no"),
    Case(32, lora=True), Case(32, lora=True, compiled=True), Case(32, lora=True, checkpointing=True),
)  # fmt: skip
"""The measured cases, in this order."""
QUICK_CASES = tuple(CASES[index] for index in (0, 5, 7, 9))
"""Cases that together use every option once."""


def run(*, quick: bool = False, steps: int = 20) -> list[Row]:
    """Measure every case.

    Args:
        quick: A tiny model, batches of two and two steps of some cases, to show that it runs.
        steps: Steps in each of the three intervals that are measured, after one that is not.
    """
    rows: list[Row] = []
    for case in QUICK_CASES if quick else CASES:
        case_rows = _measure(case, quick, 1 if quick else steps)
        print(table(case_rows), file=sys.stderr)
        rows += case_rows
    return rows


def _measure(case: Case, quick: bool, steps: int) -> list[Row]:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch.compiler.reset()
    with tempfile.TemporaryDirectory() as folder:
        try:
            lines = _train(dataclasses.replace(case, batch_size=2) if quick else case, quick, steps, Path(folder))
        except torch.OutOfMemoryError:
            print(f"{case.what}: not enough memory", file=sys.stderr)
            return []
        finally:
            gc.collect()
    measured = lines[1:]  # the first interval includes compilation and warm-up
    on_h100 = torch.cuda.is_available() and H100 in torch.cuda.get_device_name()
    goal = Goal.ours_at_least if on_h100 and case == Case(32, compiled=True) else None
    rates = [line["images_per_s"] for line in measured]
    rows = [Row(f"{case.what}: speed", "images/s", rates, (), goal, 136, median=True)]
    if measured[0]["mfu_percent"] is not None:
        shares = [line["mfu_percent"] for line in measured]
        rows.append(Row(f"{case.what}: MFU", "%", shares, (), goal, 33, median=True))
    rows.append(Row(f"{case.what}: work", "TFLOP/s", [line["tflops_per_s"] for line in measured], median=True))
    rows.append(Row(f"{case.what}: peak memory", "GiB", [measured[-1]["peak_memory_gib"]], median=True))
    return rows


def _train(case: Case, quick: bool, steps: int, folder: Path) -> list[dict[str, Any]]:
    """Train in the project's loop; return the lines of its metrics file."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from diffusers import DDPMScheduler

    arguments = ["dataset=none", "model=sd15_random", *(_TINY if quick else []), f"mixed_precision={case.precision}"]
    config = compose("train", TrainConfig, arguments)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=case.precision)
    components = make_components(config.model, seed=0)
    freeze(components)
    unet = components.unet
    if case.channels_last:
        unet.to(memory_format=torch.channels_last)
    if case.lora:
        add_lora(unet, rank=16, alpha=16.0, seed=0, target_modules=config.method.lora_target_modules)
    else:
        unfreeze(unet)
    if case.checkpointing:
        unet.enable_gradient_checkpointing()
    if case.compiled:
        unet.compile(fullgraph=True, backend="eager" if quick else "inductor")
    components.to(accelerator.device)
    objective = DiffusionObjective(
        unet, components.text_encoder, components.vae, DDPMScheduler.from_config(components.scheduler.config),
        snr_gamma=5.0, train_text_encoder=False,
    )  # fmt: skip
    optimizer = make_optimizer(config.optimizer, parameter_groups(components.modules, config.optimizer.lr, None))
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    size = config.model.sample_size
    speed = Speedometer(
        accelerator.device, case.precision, images_per_step=case.batch_size, world_size=1, clip_s=_CLIP_S
    )
    total = (_INTERVALS + 1) * steps
    distribution = Distribution(accelerator)
    learning = Learning(
        objective=objective,
        optimizer=optimizer,
        schedule=make_schedule(config.schedule, optimizer, total),
        ema=None if case.lora else make_ema(config.ema, weights),
        batches=lambda first: _batches(case.batch_size, size),
        slice_name=str,
        global_batch_size=case.batch_size,
        accumulation=1,
        max_grad_norm=1.0,
    )
    outputs = Outputs(
        checkpoints=_NoCheckpoints(folder, 1),
        metrics=MetricsLog(folder / "metrics.jsonl", distribution, speed),
        validation=None,
        preview=lambda step: None,
    )
    Trainer(distribution, learning, outputs, Intervals(total, total, steps, preview_steps=0)).train()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _batches(batch_size: int, size: int) -> Iterator[dict[str, Tensor]]:
    """Yield one batch again and again, in host memory as from a data loader."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 4, size, size)
    batch = {
        "moments": torch.randn(batch_size, 8, size, size, generator=generator) * 0.1,
        "latent_noise": torch.randn(shape, generator=generator),
        "noise": torch.randn(shape, generator=generator),
        "timestep": torch.randint(0, 1000, (batch_size,), generator=generator),
        "input_ids": torch.randint(0, 40000, (batch_size, 77), generator=generator),
        "slice_index": torch.arange(batch_size),
    }
    on_gpu = torch.cuda.is_available()
    batch = {key: value.pin_memory() if on_gpu else value for key, value in batch.items()}
    while True:
        yield batch


class _NoCheckpoints(Checkpoints):
    def steps(self) -> list[Path]:
        return []

    def save(self, state: TrainingState) -> Path:
        return self.folder


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write `train_sd15.json`. Returns the exit code: 0 done, 2 invalid input."""
    return measure_on_gpu(
        "train_sd15",
        "benchmarks.gpu.train_sd15",
        lambda quick, steps: run(quick=quick, steps=steps or 20),
        argv,
        has_gpu=torch.cuda.is_available(),
        number_key="steps",
    )


if __name__ == "__main__":
    sys.exit(main())
