"""Captions as text: cleaning, reading one caption per line, and counting tokens."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from riffusion_train.runtime.clip_bpe import make_encoder
from riffusion_train.runtime.errors import InputError

_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u2060"))
"""Byte-order mark, zero-width space, word joiner: invisible, and yet they change the tokens of a caption."""


def clean_caption(text: str) -> str:
    """Return `text` in Unicode NFC, without control characters, with single spaces and none at the ends."""
    composed = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
    printable = "".join(" " if unicodedata.category(char) == "Cc" else char for char in composed)
    return " ".join(printable.split())


def clean_captions(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the cleaned captions in their order, without empty ones and repetitions."""
    return tuple(dict.fromkeys(caption for caption in map(clean_caption, texts) if caption))


def one_line_caption(value: object) -> str | None:
    """Return a value as a cleaned text; None if it is None or empty."""
    return (clean_caption(str(value)) or None) if value is not None else None


def parse_sidecar(where: str, content: bytes) -> tuple[str, ...]:
    """Return the captions of a `.txt` sidecar: one per line, in UTF-8.

    Args:
        where: Its name, for messages.
        content: Its bytes.

    Raises:
        InputError: If it is not UTF-8 text.
    """
    try:
        return clean_captions(content.decode("utf-8-sig").splitlines())
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8 text; save it as UTF-8") from None


def read_sidecar(path: Path) -> tuple[str, ...]:
    """Read a sidecar from a file; see `parse_sidecar`."""
    try:
        return parse_sidecar(str(path), path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def count_tokens(captions: Iterable[str]) -> list[int]:
    """Return the number of tokens of each caption, start and end included."""
    return [len(encoded.ids) + 2 for encoded in make_encoder().encode_batch(list(captions))]
