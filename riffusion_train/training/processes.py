"""Joining the other processes of a launch."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from riffusion_train.config.train import MethodName, OptimizerName, TrackerName, TrainConfig
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.checks import check_precision, check_scaler
from riffusion_train.training.optim import check_optimizer
from riffusion_train.training.run_folder import RunFolder, new_run_path

_FSDP = "ACCELERATE_USE_FSDP"
_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"

_FIXED = {
    "FSDP_VERSION": ("1", "2", "fsdp_version: 2"),
    "FSDP_OFFLOAD_PARAMS": ("false", "false", "fsdp_offload_params: false, and more processes or a smaller batch"),
    "FSDP_RESHARD_AFTER_FORWARD": ("true", "true", "fsdp_reshard_after_forward: true"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "false",
        "false",
        "fsdp_activation_checkpointing: false and the key gradient_checkpointing=true",
    ),
}
"""Settings of Accelerate's FSDP that would change what is computed or held: what a missing one means, what is used, a mend."""


def start_processes(config: TrainConfig) -> tuple[Any, RunFolder]:
    """Join the other processes, agree on the run folder, and set up the tracker.

    Raises:
        InputError: If this device cannot compute in the precision that was asked for, or the launch shares out the weights in a
            way that cannot be had.
    """
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration, broadcast_object_list

    check_launch(config)
    if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # of a run before in the same process, a notebook's
    # Unless told so, accelerate takes each of several CPU ranks for the only one.
    on_cpu = not torch.accelerator.is_available()
    precision = config.mixed_precision
    with _without_accelerates_fsdp():
        processes = PartialState(cpu=on_cpu)
        check_precision(precision, processes.device)
        check_optimizer(config, processes.device)
        path = [new_run_path(config)]
        if processes.num_processes > 1:
            broadcast_object_list(path)
        run = RunFolder(path[0])
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision=precision.value,
            log_with=None if config.tracker.name is TrackerName.files else config.tracker.name.value,
            project_config=ProjectConfiguration(project_dir=str(run.path), logging_dir=str(run.path)),
        )
    check_scaler(precision, accelerator.scaler)
    return accelerator, run


def weights_are_shared(accelerator: Any) -> bool:
    """Whether the launch shares out the trained weights between several processes."""
    return _asked_for(_FSDP) and accelerator.num_processes > 1


def check_launch(config: TrainConfig) -> None:
    """Refuse a launch that shares out the weights in a way that cannot be had, or for what does not go with it.

    Raises:
        InputError: With the mend.
    """
    if _asked_for(_DEEPSPEED):
        raise InputError(
            "accelerate was told to use DEEPSPEED; take launch/fsdp.yaml, which shares out the weights as well"
        )
    if not _asked_for(_FSDP):
        return
    for name, (missing, wanted, mend) in _FIXED.items():
        value = os.environ.get(name, missing).lower()
        if value != wanted:
            raise InputError(f"{name.lower()}={value} is not used here; take launch/fsdp.yaml, or {mend} in yours")
    if config.method.name is MethodName.lora:
        raise InputError(
            "method=lora trains too few weights for FSDP to share out; take launch/multi_gpu.yaml, or method=full"
        )
    if config.optimizer.name is not OptimizerName.adamw:
        raise InputError(
            f"optimizer={config.optimizer.name.value} needs whole weights, which FSDP cuts up; take optimizer=adamw, or "
            "launch/multi_gpu.yaml"
        )
    if config.compile:
        raise InputError(
            "compile=true needs whole weights, which FSDP cuts up; take compile=false, or launch/multi_gpu.yaml"
        )


def _asked_for(name: str) -> bool:
    return os.environ.get(name, "").lower() == "true"


@contextlib.contextmanager
def _without_accelerates_fsdp() -> Iterator[None]:
    """Keep it from accelerate that FSDP was asked for: it would want to do it itself on a GPU, and DDP on a CPU."""
    asked = os.environ.pop(_FSDP, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[_FSDP] = asked
