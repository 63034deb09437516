"""The text cache: hidden states of every distinct caption under a frozen text encoder, encoded once by all ranks together."""

import hashlib
from collections.abc import Sequence

import numpy as np

from riffusion_train.dataset.layout import DatasetFolder
from riffusion_train.dataset.row_cache import CachedRows, CacheKind, RowCache

TEXTS = CacheKind(
    name="texts",
    contents="hidden states",
    network="text encoder",
    key="text encoder or tokenizer",
    option="cache_text_embeddings",
)


def cached_captions(captions: Sequence[str]) -> list[str]:
    """Return the captions that get a row, in the order of the rows: the empty one, and every other once.

    Which of them a step trains with, and whether it is dropped, stays that step's draw: no draw is in the cache.
    """
    return ["", *(caption for caption in dict.fromkeys(captions) if caption)]


def text_cache(
    folder: DatasetFolder, captions: Sequence[str], *, text_encoder: str, tokenizer: str, shape: tuple[int, int]
) -> RowCache:
    """Return the cache of the captions' hidden states, whether or not it is there yet: float32 (captions, 77, D).

    float32 is what the text encoder gives, so that the UNet is fed the same numbers as without a cache in every precision; a
    caption of SD 1.5 takes 231 KiB.

    Args:
        folder: The dataset that the captions are of.
        captions: What `cached_captions` gives.
        text_encoder: Fingerprint of the text encoder.
        tokenizer: Fingerprint of the tokenizer.
        shape: Of the hidden states of a caption, (77, D).
    """
    network = hashlib.blake2b(f"{text_encoder} {tokenizer}".encode(), digest_size=16).hexdigest()
    return RowCache(
        folder,
        TEXTS,
        network=network,
        shape=(len(captions), *shape),
        name_row=lambda row: f"the caption {captions[row]!r}",
    )


class CachedTexts:
    """The hidden states of captions, looked up by the caption."""

    def __init__(self, captions: Sequence[str], rows: CachedRows) -> None:
        self._row_of = {caption: row for row, caption in enumerate(captions)}
        self._rows = rows

    def __getitem__(self, caption: str) -> np.ndarray:
        """Return the hidden states of a caption: float32 (77, D)."""
        return self._rows[self._row_of[caption]]
