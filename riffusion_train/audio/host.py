"""Where work is done: numba's loops go over the host's memory, everything else is left to torch's operations."""

from torch import Tensor


def on_host(tensor: Tensor) -> bool:
    """Return whether a tensor lies in the host's memory, where loops of our own are the quicker way."""
    return tensor.device.type == "cpu"
