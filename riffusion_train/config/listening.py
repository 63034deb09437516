"""The choice of who listens: a pretrained model that turns sound into an embedding, and perhaps into tags."""

import enum


class EmbedderName(enum.Enum):
    """The pretrained model that listens."""

    musicnn = "musicnn"
    """Two music taggers that ship with the package (Pons & Serra 2019): 100 tags, an embedding of 200 numbers for each 3 s."""
    clap = "clap"
    """LAION-CLAP (Wu et al. 2023) from the hub or a folder: embeddings of sounds and of texts in one space."""
