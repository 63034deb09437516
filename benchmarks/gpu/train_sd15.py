"""`python -m benchmarks.gpu.train_sd15 [--quick] [minutes=5] [out=DIR]`: how fast SD 1.5 trains on one GPU, case by case.

SD 1.5's real architecture with random weights and 64 x 64 latents in the project's training loop: cached moments and hidden
states, fused AdamW, EMA, clipping. The file is written after each case, so that a run that is cut short has what it measured;
no case begins once the minutes are used up. `--quick` trains a tiny model for two steps a case on any device.
"""

import contextlib
import dataclasses
import functools
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.command import RESULTS, arguments_of, exit_code, parse_arguments
from benchmarks.report import Goal, Row, table, write_results
from riffusion_train.config.compose import compose
from riffusion_train.config.train import TrainConfig
from riffusion_train.model.components import Components, freeze, unfreeze
from riffusion_train.model.loading import make_components
from riffusion_train.model.lora import add_lora
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.distribution import Distribution
from riffusion_train.training.method import make_method
from riffusion_train.training.objective import DiffusionObjective
from riffusion_train.training.optimizer import make_ema, make_optimizer, make_schedule, parameter_groups
from riffusion_train.training.run_folder import Checkpoints, TrainingState
from riffusion_train.training.tracking import MetricsLog, Speedometer
from riffusion_train.training.trainer import Intervals, Learning, Outputs, Trainer

NAME = "train_sd15"
TINY = [
    "model=tiny", "model.sample_size=8", "model.unet_block_out_channels=[16,16]", "model.unet_attention_levels=[true,false]",
    "model.unet_norm_num_groups=8", "model.vae_block_out_channels=[8,8]", "model.text_hidden_size=16",
    "model.text_intermediate_size=16", "model.text_num_hidden_layers=1", "model.text_num_attention_heads=2",
]  # fmt: skip
_TARGETS = {"H100": 150, "H200": 160}
"""Images/s; the highest published figures are 135.7 and 144.4 a GPU (MLPerf Training 4.1 and 5.0)."""
_TARGET_MFU = 40
_INTERVALS = 3
_CLIP_S = 5.11
_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to train."""

    batch_size: int
    lora: bool = False
    checkpointing: bool = False
    compiled: str = ""
    """`objective`, `regions`, or nothing."""
    channels_last: bool = True
    precision: str = "bf16"
    attention: str = ""
    """A backend of `scaled_dot_product_attention`; empty is torch's choice."""
    encoded: bool = True
    """Whether moments and hidden states are cached, or VAE and text encoder run in every step."""
    bf16_norms: bool = False
    """Whether normalisation computes in bf16 (with sums in fp32), which autocast does in fp32. Training does not offer it."""
    on_device: bool = False
    """Whether batches are on the device already, as with `cache_on_device`."""

    @property
    def what(self) -> str:
        """Its description, the start of the names of its rows."""
        parts = [
            "LoRA rank 16" if self.lora else "full fine-tuning with EMA",
            self.precision,
            f"batch {self.batch_size}",
        ]
        parts += ["checkpointing"] if self.checkpointing else []
        parts += [f"{self.compiled} compiled"] if self.compiled else []
        parts += [] if self.channels_last else ["channels first"]
        parts += [f"{self.attention} attention"] if self.attention else []
        parts += [] if self.encoded else ["VAE and text encoder in the step"]
        parts += ["data on the device"] if self.on_device else []
        parts += ["norms in bf16"] if self.bf16_norms else []
        return ", ".join(parts)


CASES = (
    Case(32), Case(32, compiled="regions"), Case(32, bf16_norms=True), Case(32, bf16_norms=True, compiled="regions"),
    Case(16), Case(64), Case(64, compiled="regions"), Case(32, compiled="objective"), Case(32, attention="cudnn"),
    Case(32, attention="flash"), Case(32, attention="efficient"), Case(32, channels_last=False), Case(32, on_device=True),
    Case(32, encoded=False), Case(64, checkpointing=True), Case(8, attention="math"), Case(8, precision="no"),
    Case(32, lora=True), Case(32, lora=True, compiled="regions"), Case(32, lora=True, checkpointing=True),
)  # fmt: skip
"""The measured cases, in this order: what matters most is first, and adapters, which stay in the model, are last."""
QUICK_CASES = (
    Case(32, compiled="objective"), Case(16, attention="math", channels_last=False), Case(32, on_device=True),
    Case(32, encoded=False, bf16_norms=True), Case(8, precision="no"),
    Case(32, lora=True, compiled="regions", checkpointing=True),
)  # fmt: skip
"""Cases that together use every option once."""


def run(report: Callable[[list[Row]], None], *, quick: bool = False, minutes: float = 5.0) -> list[Row]:
    """Measure the cases until the time is used up; return all rows.

    Args:
        report: Called after each case with all rows so far.
        quick: A tiny model, batches of two and two steps of some cases, to show that it runs.
        minutes: No case begins after these.
    """
    end = time.monotonic() + 60 * minutes
    config = compose("train", TrainConfig, ["dataset=none", "model=sd15_random", *(TINY if quick else [])])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    components = make_components(config.model, seed=0)
    components.to(device)
    rows: list[Row] = []
    for case in QUICK_CASES if quick else CASES:
        left_s = end - time.monotonic()
        if left_s < 0:
            print(f"{case.what}: left out, the time is used up", flush=True)
            continue
        start = time.monotonic()
        own = _measure(case, components, device, quick)
        rows += own
        print(f"{table(own)}\n  {time.monotonic() - start:.0f} s, {left_s:.0f} s were left", flush=True)
        report(rows)
    return rows


def _measure(case: Case, components: Components, device: torch.device, quick: bool) -> list[Row]:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        try:
            small = dataclasses.replace(case, batch_size=2) if quick else case
            lines = _train(small, components, device, quick, Path(folder))
        except (torch.OutOfMemoryError, RuntimeError) as error:  # a backend that a GPU does not have is the latter
            print(f"{case.what}: {str(error).splitlines()[0]}", flush=True)
            return []
        finally:
            gc.collect()
    measured = lines[1:]  # the first interval includes compilation and warm-up
    kind = (
        next((name for name in _TARGETS if name in torch.cuda.get_device_name()), None)
        if device.type == "cuda"
        else None
    )
    compared = case in (Case(32), Case(32, compiled="regions"), Case(32, compiled="objective"))
    goal = Goal.ours_at_least if kind is not None and compared else None
    rates = [line["images_per_s"] for line in measured]
    rows = [Row(f"{case.what}: speed", "images/s", rates, (), goal, _TARGETS.get(kind or "", 0), median=True)]
    if measured[0]["mfu_percent"] is not None:
        shares = [line["mfu_percent"] for line in measured]
        rows.append(Row(f"{case.what}: MFU", "%", shares, (), goal, _TARGET_MFU, median=True))
    rows.append(Row(f"{case.what}: work", "TFLOP/s", [line["tflops_per_s"] for line in measured], median=True))
    rows.append(Row(f"{case.what}: peak memory", "GiB", [measured[-1]["peak_memory_gib"]], median=True))
    rows.append(Row(f"{case.what}: first steps with compilation", "s a step", [lines[0]["step_s"]], median=True))
    return rows


def _train(case: Case, components: Components, device: torch.device, quick: bool, folder: Path) -> list[dict[str, Any]]:
    """Train in the project's loop; return the lines of its metrics file."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    words = ["dataset=none", "model=sd15_random", *(TINY if quick else []), f"mixed_precision={case.precision}"]
    words += ["compile=true"] if case.compiled == "objective" else []
    words += ["compile_regions=true"] if case.compiled == "regions" else []
    config = compose("train", TrainConfig, words)
    AcceleratorState._reset_state(reset_partial_state=True)
    distribution = Distribution(Accelerator(cpu=device.type == "cpu", mixed_precision=case.precision))
    objective, optimizer = _objective(case, components, config, quick)
    steps = 1 if quick else (6 if case.batch_size >= 64 else 10)
    total = (_INTERVALS + 1) * steps
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    speed = Speedometer(device, case.precision, images_per_step=case.batch_size, world_size=1, clip_s=_CLIP_S)
    learning = Learning(
        objective=objective,
        optimizer=optimizer,
        schedule=make_schedule(config.schedule, optimizer, total),
        ema=None if case.lora else make_ema(config.ema, weights),
        batches=lambda first: _batches(case, config.model.sample_size, config.model.text_hidden_size, device),
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
    with sdpa_kernel(_BACKENDS[case.attention]) if case.attention else contextlib.nullcontext():
        Trainer(distribution, learning, outputs, Intervals(total, total, steps, preview_steps=0)).train()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _objective(
    case: Case, components: Components, config: TrainConfig, quick: bool
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Return what a case trains, and its optimizer; the networks are those of the case before."""
    from diffusers import DDPMScheduler

    torch.compiler.reset()
    unet = components.unet
    for module in unet.modules():
        module._compiled_call_impl = None
    freeze(components)
    components.text_encoder.to("cpu" if case.encoded else components.unet.device)  # where a run has it
    unet.to(memory_format=torch.channels_last if case.channels_last else torch.contiguous_format)
    if not case.lora:
        unfreeze(unet)
    elif any("lora_" in name for name, _ in unet.named_parameters()):
        for name, weight in unet.named_parameters():
            weight.requires_grad_("lora_" in name)
    else:
        add_lora(unet, rank=16, alpha=16.0, seed=0, target_modules=config.method.lora_target_modules)
    for module in unet.modules():
        if isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm):
            module.__dict__.pop("forward", None)
            if case.bf16_norms:
                module.forward = functools.partial(_norm_in_bf16, module)  # type: ignore[method-assign]
    (unet.enable_gradient_checkpointing if case.checkpointing else unet.disable_gradient_checkpointing)()
    unet.train()
    objective = DiffusionObjective(
        unet, None if case.encoded else components.text_encoder, components.vae,
        DDPMScheduler.from_config(components.scheduler.config), snr_gamma=5.0, train_text_encoder=False,
    )  # fmt: skip
    make_method(config).compile(objective, components, backend="eager" if quick else "inductor")
    optimizer = make_optimizer(config.optimizer, parameter_groups(components.modules, config.optimizer.lr, None))
    return objective, optimizer


def _norm_in_bf16(module: torch.nn.GroupNorm | torch.nn.LayerNorm, values: Tensor) -> Tensor:
    values, weight, bias = (one.to(torch.bfloat16) for one in (values, module.weight, module.bias))
    with torch.autocast(values.device.type, enabled=False):
        if isinstance(module, torch.nn.GroupNorm):
            return F.group_norm(values, module.num_groups, weight, bias, module.eps)
        return F.layer_norm(values, module.normalized_shape, weight, bias, module.eps)


def _batches(case: Case, size: int, width: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Yield one batch again and again, in pinned memory as from a data loader, or on the device."""
    generator = torch.Generator().manual_seed(0)
    count = case.batch_size
    shape = (count, 4, size, size)
    batch = {
        "latent_noise": torch.randn(shape, generator=generator),
        "noise": torch.randn(shape, generator=generator),
        "timestep": torch.randint(0, 1000, (count,), generator=generator),
        "slice_index": torch.arange(count),
    }
    if case.encoded:
        batch["moments"] = torch.randn(count, 8, size, size, generator=generator) * 0.1
        batch["hidden_states"] = torch.randn(count, 77, width, generator=generator)
    else:
        side = size * (8 if size >= 32 else 2)  # the tiny model's VAE halves once
        batch["pixels"] = torch.rand(count, 3, side, side, generator=generator) * 2 - 1
        batch["input_ids"] = torch.randint(0, 300, (count, 77), generator=generator)
    if case.on_device:
        batch = {key: value.to(device) for key, value in batch.items()}
    elif device.type == "cuda":
        batch = {key: value.pin_memory() for key, value in batch.items()}
    while True:
        yield dict(batch)


class _NoCheckpoints(Checkpoints):
    def steps(self) -> list[Path]:
        return []

    def save(self, state: TrainingState) -> Path:
        return self.folder


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write `train_sd15.json`. Returns the exit code: 0 done, 2 invalid input."""

    def work() -> None:
        given = parse_arguments(
            arguments_of(argv), "--quick, minutes=N or out=DIR", flags=("--quick",), keys=("minutes", "out")
        )
        quick = "--quick" in given.flags
        if not quick and not torch.cuda.is_available():
            raise InputError("this needs a GPU; --quick out=DIR shows on any machine that it runs")
        if quick and "out" not in given.values:
            raise InputError("--quick gives no result worth keeping; name a folder with out=DIR")
        path = Path(given.values.get("out", RESULTS)) / f"{NAME}.json"
        command = " ".join([f"python -m benchmarks.gpu.{NAME}", *arguments_of(argv)])
        run(
            lambda rows: print(f"wrote {write_results(path, command, rows)}", flush=True),
            quick=quick,
            minutes=minutes_of(given.values, 5.0),
        )

    return exit_code(NAME, work)


def minutes_of(values: dict[str, str], default: float) -> float:
    """Return `minutes=N` of a command line.

    Raises:
        InputError: If it is not a number above 0.
    """
    try:
        minutes = float(values.get("minutes", default))
    except ValueError:
        minutes = 0.0
    if minutes <= 0:
        raise InputError(f"minutes={values['minutes']}: give a number above 0")
    return minutes


if __name__ == "__main__":
    sys.exit(main())
