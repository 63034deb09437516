"""What an embedder of sounds is: the interface that the figures are computed from."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Clip = tuple[npt.NDArray[np.float32], int]
"""A sound, (channels, samples), and its sample rate in Hz."""


@dataclasses.dataclass(frozen=True)
class Heard:
    """What an embedder hears in one clip."""

    embedding: npt.NDArray[np.float32]
    patches: npt.NDArray[np.float32]
    tags: dict[str, float]
    patch_tags: npt.NDArray[np.float32]


class Embedder(Protocol):
    """Turns sounds, and perhaps texts, into embeddings."""

    name: str
    dim: int

    def hear(self, clips: Sequence[Clip]) -> list[Heard]:
        """Return what is heard in each clip."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32] | None:
        """Return embeddings of texts in the space of the sounds, (texts, dim); None without a text side."""
        ...
