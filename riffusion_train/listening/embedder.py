"""Embedders: pretrained models that listen to clips. One is chosen by name; another one is a class with these four members."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from riffusion_train.config.listening import EmbedderName
from riffusion_train.listening.patches import Clip, Heard
from riffusion_train.runtime.errors import InputError, member

__all__ = ["Clip", "Embedder", "Heard", "make_embedder"]


class Embedder(Protocol):
    """Turns clips into embeddings.

    What it hears in a clip depends on that clip alone, not on those that it is given with, and is the same every time.
    """

    @property
    def name(self) -> str:
        """What it is, for records: embeddings of two names cannot be compared."""

    @property
    def dim(self) -> int:
        """Length of an embedding."""

    def hear(self, clips: Sequence[Clip]) -> list[Heard]:
        """Return what is heard in each clip, whatever its rate, number of channels and length.

        Raises:
            InputError: If a clip has no samples, or samples that are not numbers.
        """

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32] | None:
        """Return the embeddings of texts in the same space, shape (texts, dim); None if there is no text side."""


def make_embedder(name: EmbedderName | str, source: str | None = None, device: str = "cpu") -> Embedder:
    """Return the embedder of a name.

    Args:
        name: `musicnn`, whose weights are part of the package, or `clap`.
        source: For `clap`: a hub id or a folder; None takes `laion/larger_clap_music`.
        device: Where it computes.

    Raises:
        InputError: If the name is unknown, or the model cannot be loaded.
    """
    chosen = member("embedder", name, EmbedderName)
    if chosen is EmbedderName.clap:
        from riffusion_train.listening.clap import load_clap

        return load_clap(source, device)
    if source is not None:
        raise InputError(f"embedder_source={source}: musicnn is part of the package; leave it out or set embedder=clap")
    from riffusion_train.listening.musicnn import MusicnnEmbedder

    return MusicnnEmbedder(device)
