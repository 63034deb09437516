from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from support.nano import train_config, write_dataset
from torch.utils._python_dispatch import TorchDispatchMode

from riffusion_train.training.run import run_training


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
