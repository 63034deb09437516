"""Checkpoints: everything a run needs to resume exactly, in safetensors and JSON, written beside and renamed into place."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from riffusion_train.runtime.errors import InputError
from riffusion_train.training.distribution import like_weight

SCHEMA_VERSION = 1
_STATE_FILE = "state.json"
_TENSOR_FILES = ("trained", "ema", "optimizer")
_PARTIAL_PREFIX = ".partial-"
_DAMAGED_PREFIX = "damaged-"
_BEST_FILE = "best.json"


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
            save_file(_separate(getattr(state, name)), partial / f"{name}.safetensors")
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
        self._rotate()
        return target

    def best(self) -> Path | None:
        """Return the checkpoint that `keep_best` named; None where there is none."""
        file = self.folder / _BEST_FILE
        if not file.is_file():
            return None
        folder = self.folder / f"step-{json.loads(file.read_text(encoding='utf-8'))['step']:06d}"
        return folder if folder.is_dir() else None

    def keep_best(self, step: int) -> None:
        """Keep the checkpoint of a step beyond the limit, in place of the one that was kept before."""
        partial = self.folder / (_PARTIAL_PREFIX + _BEST_FILE)
        partial.write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")
        _flush_to_disk(partial)
        partial.replace(self.folder / _BEST_FILE)
        self._rotate()

    def set_aside(self, damaged: Iterable[Path]) -> None:
        """Rename damaged checkpoints, so that the steps they were for can be saved again."""
        for folder in damaged:
            target = folder.with_name(_DAMAGED_PREFIX + folder.name)
            if target.exists():
                shutil.rmtree(target)
            folder.rename(target)

    def load_newest(self) -> tuple[TrainingState | None, dict[Path, str]]:
        """Read the newest checkpoint that can be read.

        Returns:
            The state, or None where there is no checkpoint; and the damaged checkpoints passed over, with what is wrong.

        Raises:
            InputError: If a checkpoint is of a newer schema, or if there are checkpoints and none can be read.
        """
        damaged: dict[Path, str] = {}
        for folder in reversed(self.steps()):
            try:
                return self._load(folder), damaged
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                damaged[folder] = f"{type(error).__name__}: {error}"
        if damaged:
            raise InputError(
                f"{self.folder}: none of its {len(damaged)} checkpoints can be read; start a new run folder"
            )
        return None, damaged

    def _load(self, folder: Path) -> TrainingState:
        data = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
        if data["schema_version"] > SCHEMA_VERSION:
            raise InputError(
                f"{folder}: written by a newer riffusion-train (checkpoint schema {data['schema_version']}, this one knows "
                f"{SCHEMA_VERSION}); pip install --upgrade riffusion-train"
            )
        tensors = {name: load_file(folder / f"{name}.safetensors") for name in _TENSOR_FILES}
        return TrainingState(
            step=data["step"],
            trained=tensors["trained"],
            ema=tensors["ema"],
            optimizer=tensors["optimizer"],
            scalars=data["scalars"],
            global_batch_size=data["global_batch_size"],
        )

    def _rotate(self) -> None:
        """Remove the checkpoints beyond the limit. Each is renamed first, so that none ever stands there half removed."""
        for old in self.steps()[: -self.total_limit]:
            if old != self.best():
                shutil.rmtree(old.rename(self.folder / (_PARTIAL_PREFIX + "old-" + old.name)))

    def _clear_partial(self) -> None:
        for path in self.folder.glob(_PARTIAL_PREFIX + "*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, none sharing memory with another: bitsandbytes' tables are one for all weights."""
    seen: set[int] = set()
    separate = {}
    for key, tensor in tensors.items():
        plain = tensor.detach().contiguous().cpu()
        separate[key] = plain.clone() if plain.data_ptr() in seen else plain
        seen.add(plain.data_ptr())
    return separate


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> tuple[dict[str, Tensor], list[Any]]:
    """Split an optimizer's state into tensors and its groups.

    Args:
        optimizer: The optimizer.
        names: Names of its weights, in the order of its groups.

    Returns:
        The tensors, as `<weight>.<moment>`, counts among them; and the groups as JSON data.
    """
    state = optimizer.state_dict()
    tensors = {
        f"{names[index]}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, moments in state["state"].items()
        for key, value in _flat(moments).items()
    }
    groups = [
        {key: value.item() if isinstance(value, Tensor) else value for key, value in group.items() if key != "params"}
        for group in state["param_groups"]
    ]
    return tensors, groups


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor], groups: list[Any]
) -> None:
    """Put back what `optimizer_tensors` took, in the memory layout of the weights, which the fused kernel relies on."""
    state: dict[int, dict[str, Any]] = {}
    index_of = {name: index for index, name in enumerate(names)}
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    counts = _plain_counts(optimizer)
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition(".")
        index = index_of[name]
        value: Any = tensor
        if tensor.dim() == 0 and moment in counts:
            value = tensor.item()
        elif tensor.shape == weights[index].shape and tensor.is_floating_point():
            value = like_weight(tensor, weights[index])
        state.setdefault(index, {})[moment] = value
    now = optimizer.state_dict()["param_groups"]
    merged = [{**saved, "params": group["params"]} for saved, group in zip(groups, now, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": merged})


def _flat(moments: dict[str, Any]) -> dict[str, Any]:
    """Return the moments of one weight; bitsandbytes keeps its 8-bit ones a level deeper, out of FSDP's sight."""
    flat: dict[str, Any] = {}
    for key, value in moments.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat


def _plain_counts(optimizer: torch.optim.Optimizer) -> set[str]:
    """Return the moments that are plain numbers: torch's own optimizers count their steps in tensors, the others do not."""
    return set() if type(optimizer).__module__.startswith("torch.") else {"step"}
