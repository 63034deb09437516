"""Captions as text: cleaning, and sidecar files with one caption a line."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from riffusion_train.config.errors import InputError

_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u2060"))
"""Byte-order mark, zero-width space, word joiner: they would change the tokens of a caption nobody can tell apart."""


def clean_caption(text: str) -> str:
    """Return `text` in Unicode NFC, without control characters, with single spaces and no blank ends."""
    composed = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
    printable = "".join(" " if unicodedata.category(char) == "Cc" else char for char in composed)
    return " ".join(printable.split())


def clean_captions(texts: Iterable[str]) -> tuple[str, ...]:
    """Clean each caption; empty ones and repetitions are left out, the order stays."""
    return tuple(dict.fromkeys(caption for caption in map(clean_caption, texts) if caption))


def sidecar_of(audio: Path) -> Path | None:
    """Return the caption file of an audio file: `song.txt`, or `song.wav.txt` where that one is there; else None."""
    for path in (audio.with_suffix(".txt"), audio.with_name(audio.name + ".txt")):
        if path.is_file():
            return path
    return None


def read_sidecar(path: Path) -> tuple[str, ...]:
    """Read a sidecar: one caption a line, UTF-8.

    Raises:
        InputError: If it cannot be read as UTF-8 text.
    """
    try:
        return clean_captions(path.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
