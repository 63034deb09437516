"""Joining the other processes of a launch."""

import os
from typing import Any

import torch

from riffusion_train.config.errors import InputError
from riffusion_train.config.train import TrackerName, TrainConfig
from riffusion_train.training.checks import check_precision, check_scaler
from riffusion_train.training.optim import check_optimizer
from riffusion_train.training.run_folder import RunFolder, new_run_path


def start_processes(config: TrainConfig) -> tuple[Any, RunFolder]:
    """Join the other processes, agree on the run folder, and set up the tracker.

    Raises:
        InputError: If this device cannot compute in the precision that was asked for, or the launch shares out the weights.
    """
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration, broadcast_object_list

    sharded = [name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}") == "true"]
    if sharded:
        raise InputError(
            f"accelerate was told to use {sharded[0]}, and each process needs the whole weights here; take "
            "launch/multi_gpu.yaml, or distributed_type: MULTI_GPU in yours"
        )
    if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
        AcceleratorState._reset_state(
            reset_partial_state=True
        )  # a run before this one in the same process, a notebook's
    on_cpu = (
        not torch.accelerator.is_available()
    )  # unless told so, accelerate takes each of several CPU ranks for the only one
    precision = config.mixed_precision
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
