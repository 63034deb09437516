"""Checkpoints: everything a run needs to go on exactly, in safetensors and JSON, written beside and renamed into place."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from riffusion_train.config.errors import InputError

SCHEMA_VERSION = 1
_STATE_FILE = "state.json"
_TENSOR_FILES = ("trained", "ema", "optimizer")
_PARTIAL_PREFIX = ".partial-"


@dataclasses.dataclass
class TrainingState:
    """What has to be restored for a run to go on as if it had never stopped. Random numbers need no state."""

    step: int
    """Optimizer steps done."""
    trained: dict[str, Tensor]
    """The trained weights by name, fp32."""
    ema: dict[str, Tensor]
    """Their moving average; empty where none is kept."""
    optimizer: dict[str, Tensor]
    """The optimizer's tensors, as `<weight>.<moment>`."""
    scalars: dict[str, Any]
    """The optimizer's groups, the schedule, the scaler, the EMA's count: plain JSON data."""
    global_batch_size: int
    """Slices in one optimizer step; a resumed run must have the same."""


class Checkpoints:
    """The `checkpoints/` folder of a run. Only one rank writes; every rank may read."""

    def __init__(self, folder: Path, total_limit: int) -> None:
        self.folder = folder
        self.total_limit = total_limit

    def steps(self) -> list[Path]:
        """Return the folders of whole checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())

    def save(self, state: TrainingState) -> Path:
        """Write a checkpoint; the ones beyond the limit go only after it stands."""
        target = self.folder / f"step-{state.step:06d}"
        partial = self.folder / (_PARTIAL_PREFIX + target.name)
        self._clear_partial()
        partial.mkdir(parents=True)
        for name in _TENSOR_FILES:
            tensors = {key: tensor.detach().contiguous().cpu() for key, tensor in getattr(state, name).items()}
            save_file(tensors, partial / f"{name}.safetensors")
        data = {
            "schema_version": SCHEMA_VERSION,
            "step": state.step,
            "global_batch_size": state.global_batch_size,
            "scalars": state.scalars,
        }
        (partial / _STATE_FILE).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        for file in partial.iterdir():
            _flush_to_disk(file)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        _flush_to_disk(self.folder)
        for old in self.steps()[: -self.total_limit]:
            shutil.rmtree(old)
        return target

    def load_newest(self) -> tuple[TrainingState | None, list[str]]:
        """Read the newest checkpoint that can be read.

        Returns:
            The state, or None where there is no checkpoint; and one line for each damaged checkpoint passed over.

        Raises:
            InputError: If a checkpoint is of a newer schema.
        """
        complaints: list[str] = []
        for folder in reversed(self.steps()):
            try:
                return self._load(folder), complaints
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                complaints.append(f"{folder} is damaged ({error}); the one before it is taken")
        return None, complaints

    def _load(self, folder: Path) -> TrainingState:
        data = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
        if data["schema_version"] > SCHEMA_VERSION:
            raise InputError(f"{folder}: written by a newer riffusion-train (schema {data['schema_version']})")
        tensors = {name: load_file(folder / f"{name}.safetensors") for name in _TENSOR_FILES}
        return TrainingState(
            step=data["step"],
            trained=tensors["trained"],
            ema=tensors["ema"],
            optimizer=tensors["optimizer"],
            scalars=data["scalars"],
            global_batch_size=data["global_batch_size"],
        )

    def _clear_partial(self) -> None:
        for path in self.folder.glob(_PARTIAL_PREFIX + "*"):
            shutil.rmtree(path)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> tuple[dict[str, Tensor], list[Any]]:
    """Split an optimizer's state into tensors by weight name and its groups as JSON data.

    Args:
        optimizer: The optimizer.
        names: Names of its weights, in the order of its groups.
    """
    state = optimizer.state_dict()
    tensors = {
        f"{names[index]}.{key}": value for index, moments in state["state"].items() for key, value in moments.items()
    }
    groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
    return tensors, groups


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor], groups: list[Any]
) -> None:
    """Put back what `optimizer_tensors` took, in the memory layout of the weights, which the fused kernel relies on."""
    state: dict[int, dict[str, Tensor]] = {}
    index_of = {name: index for index, name in enumerate(names)}
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition(".")
        index = index_of[name]
        state.setdefault(index, {})[moment] = like_weight(tensor, weights[index]) if tensor.dim() else tensor
    now = optimizer.state_dict()["param_groups"]
    merged = [{**saved, "params": group["params"]} for saved, group in zip(groups, now, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": merged})


def like_weight(tensor: Tensor, weight: Tensor) -> Tensor:
    """Return a copy of a tensor in the memory layout and on the device of a weight of its shape."""
    return torch.empty_like(weight, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
