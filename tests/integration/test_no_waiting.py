import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from support.nano import train_config, write_dataset
from torch.utils._python_dispatch import TorchDispatchMode

from riffusion_train.training.distribution import Distribution
from riffusion_train.training.optimizer import parameter_groups
from riffusion_train.training.run import build_job, run_training, start_run


class Reads(TorchDispatchMode):
    """Counts how often the value of a tensor is read, which on a GPU waits for all earlier work."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_reads_no_value_unless_it_logs(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    reads = {}
    for steps, logging in ((2, 100), (6, 100), (6, 1)):
        overrides = [f"max_train_steps={steps}", f"logging_steps={logging}", "objective=min_snr", "schedule=constant"]
        with Reads() as counted:
            run_training(train_config(dataset, tmp_path / f"{steps}-{logging}", *overrides), [])
        reads[steps, logging] = counted.count
    # The flags of a step are copied asynchronously and read without an operation; see `Agreement`.
    assert reads[6, 100] == reads[2, 100]
    assert reads[6, 1] > reads[6, 100]


class EnoughError(Exception):
    """Ends a training after some steps."""


class OnMeta(Distribution):
    """One process on a device that knows shapes alone: to read a number there is an error, as it is a wait on a GPU."""

    def __init__(self) -> None:
        super().__init__(Accelerator(cpu=True))
        self.device = torch.device("meta")

    def prepare(self, objective: Any, optimizer: Any) -> tuple[Any, Any]:
        return objective, optimizer

    def send_flags(self, losses: Sequence[torch.Tensor], *, stop_asked: bool) -> None:
        """Leave out the flags, which `RankSync` copies without an operation that waits."""

    def receive_flags(self) -> bool:
        return True


def train_on_meta(folder: Path, *words: str) -> None:
    """Train four steps of which only the shapes are computed."""
    options = ["cache_latents=false", "cache_text_embeddings=false", "max_train_steps=100", *words]
    config = train_config(write_dataset(folder / "dataset"), folder / "run", *options)
    _, run, dataset = start_run(config)
    job = build_job(config, [], OnMeta(), run, dataset)
    job.outputs.metrics.speed.flops_per_image = 0.0  # counted once in a run

    def batches(first: int) -> Iterator[dict[str, torch.Tensor]]:
        yield from itertools.islice(job.learning.batches(first), 4 * job.learning.accumulation)
        raise EnoughError

    # The fused optimizer has no kernel for shapes.
    optimizer = torch.optim.AdamW(parameter_groups(job.components.modules, 1e-3, None), foreach=True)
    learning = dataclasses.replace(job.learning, optimizer=optimizer, batches=batches)
    dataclasses.replace(job, learning=learning).trainer().train()


@pytest.mark.parametrize(
    "words",
    [
        ["objective=min_snr", "gradient_accumulation_steps=2"],
        ["method=lora", "method.train_text_encoder=true", "objective=zero_snr"],
        ["method=vae", "method.train_vae_encoder=true", "method.perceptual_weight=0.5"],
        ["method=distill"],
    ],
    ids=lambda words: " ".join(words),
)
def test_no_step_reads_a_number_of_the_device(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(EnoughError):
        train_on_meta(tmp_path, "logging_steps=100", *words)


def test_a_step_that_logs_reads_numbers_of_the_device(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="meta"):
        train_on_meta(tmp_path, "logging_steps=2")
