"""An optimizer's state as tensors by the names of the weights and as plain JSON data, and back."""

from typing import Any

import torch
from torch import Tensor

from riffusion_train.training.sharding import like_weight


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
