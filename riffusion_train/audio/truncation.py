"""Notice audio files that end before their end: an interrupted download or copy is decoded without a complaint."""

from pathlib import Path

import av

_TOLERANCE_S = 0.1
_SHARE = 0.95
"""Compressed files often only estimate their duration, from the bit rate of their first frames."""

_OGG_TAIL_BYTES = 1 << 17
_OGG_END_OF_STREAM = 4
_UNKNOWN_SIZE = 0xFFFFFFFF  # what a program writes that streams a WAV and cannot go back to its header


def truncation(path: Path, decoded_s: float) -> str | None:
    """Return in words how much of an audio file is missing; None where it seems whole, or cannot be told.

    A WAV says how many bytes of samples it holds, most compressed files how long they last, and an Ogg file marks its last
    page.

    Args:
        path: A file that could be decoded.
        decoded_s: Duration of what was decoded.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if head in (b"RIFF", b"RIFX"):
        declared_s = _wav_duration_s(path)
        missing = declared_s is not None and decoded_s < declared_s - _TOLERANCE_S
    else:
        if head == b"OggS" and not _has_last_page(path):
            return f"ends before its last page: truncated; decoded {decoded_s:.2f} s"
        declared_s = _container_duration_s(path)
        missing = declared_s is not None and decoded_s < min(_SHARE * declared_s, declared_s - _TOLERANCE_S)
    if not missing:
        return None
    return f"says it lasts {declared_s:.2f} s but only {decoded_s:.2f} s could be decoded: truncated or damaged"


def _wav_duration_s(path: Path) -> float | None:
    """Return the duration that the header of a WAV file declares."""
    bytes_per_s = 0
    with path.open("rb") as file:
        order = "little" if file.read(12)[:4] == b"RIFF" else "big"
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little" if order == "little" else "big")
            if head[:4] == b"fmt ":
                body = file.read(size + size % 2)
                bytes_per_s = int.from_bytes(body[8:12], "little" if order == "little" else "big")
            elif head[:4] == b"data":
                return size / bytes_per_s if bytes_per_s and 0 < size < _UNKNOWN_SIZE else None
            else:
                file.seek(size + size % 2, 1)
    return None


def _has_last_page(path: Path) -> bool:
    """Whether the last whole page of an Ogg file is marked as the end of its stream (RFC 3533, section 6)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _OGG_TAIL_BYTES))
        tail = file.read()
    page = tail.rfind(b"OggS")
    return page < 0 or len(tail) < page + 27 or bool(tail[page + 5] & _OGG_END_OF_STREAM)


def _container_duration_s(path: Path) -> float | None:
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            return container.duration / av.time_base if container.duration else None
    except (av.FFmpegError, ValueError, OSError):
        return None
