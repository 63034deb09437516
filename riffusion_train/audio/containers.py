"""What the head of an audio file declares, read from its bytes: libsndfile only tells what it found."""

import struct
from pathlib import Path
from typing import BinaryIO

_STREAMED = 0xFFFFFFF0
"""Sizes from here on are what recorders write that do not know the end: they declare nothing."""
_OGG_END = 4
_OGG_TAIL_BYTES = 1 << 17
"""More than the largest Ogg page, so that the tail holds the last page's head."""


def declared_frames(path: Path, container: str) -> int | None:
    """Return the number of frames that a WAV or AIFF file declares; None for other formats, or where it does not say.

    Args:
        path: The file.
        container: libsndfile's name of its format.
    """
    with path.open("rb") as file:
        try:
            if container in ("WAV", "WAVEX"):
                return _riff_frames(file)
            return _aiff_frames(file) if container == "AIFF" else None
        except struct.error:
            return None


def ends_unmarked(path: Path) -> bool:
    """Tell whether an Ogg file breaks off: its last page does not bear the end-of-stream mark (RFC 3533)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _OGG_TAIL_BYTES))
        tail = file.read()
    last = tail.rfind(b"OggS")
    return last >= 0 and not (tail[last + 5 : last + 6] or b"\0")[0] & _OGG_END


def _riff_frames(file: BinaryIO) -> int | None:
    """Walk the chunks of a RIFF file up to `data`; only PCM is counted, since coded samples have no fixed size."""
    head = file.read(12)
    order = ">" if head[:4] == b"RIFX" else "<"
    block_bytes = None
    while True:
        name, size = struct.unpack(order + "4sI", file.read(8))
        if name == b"fmt ":
            kind, _, _, _, align = struct.unpack(order + "HHIIH", file.read(14))
            block_bytes = align if kind in (1, 3, 0xFFFE) else None
            size -= 14
        if name == b"data":
            return size // block_bytes if block_bytes and 0 < size < _STREAMED else None
        file.seek(size + size % 2, 1)


def _aiff_frames(file: BinaryIO) -> int | None:
    file.seek(12)
    while True:
        name, size = struct.unpack(">4sI", file.read(8))
        if name == b"COMM":
            _, frames = struct.unpack(">HI", file.read(6))
            return int(frames)
        file.seek(size + size % 2, 1)
