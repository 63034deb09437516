"""Pictures as PNG files (PNG specification, third edition), four times as quickly as by Pillow.

Pillow tries five filters on each row, a byte at a time, which takes longer than the compression. Here a row is the difference
from its left neighbours, from the row above or from the mean of both, whichever is smallest, found in the processor's vectors.
"""

import struct
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng as zlib  # the bytes of zlib in half the time

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
_LEVEL = 2
_LARGEST_WINDOW, _MOST_MEMORY = 15, 9


def png_bytes(image: npt.NDArray[np.uint8]) -> bytes:
    """Return a grey (H, W) or colour (H, W, 3) image as PNG.

    Filtered spectrograms hold no repetitions but runs, so others are not searched for (zlib's `Z_RLE`); the level then
    decides next to nothing.
    """
    height, width = image.shape[:2]
    colours = 1 if image.ndim == 2 else image.shape[2]
    rows = np.ascontiguousarray(image).reshape(height, width * colours)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    _filter_rows(rows, colours, filtered)
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _LARGEST_WINDOW, _MOST_MEMORY, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, _GREY if colours == 1 else _RGB, 0, 0, 0)
    packed = packer.compress(filtered) + packer.flush()
    return b"".join([_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", packed), _chunk(b"IEND", b"")])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _filter_rows(rows: Any, colours: int, found: Any) -> None:
    """Write the number of each row's filter (1 left, 2 above, 3 mean of both) and the filtered row.

    Slices of arrays are not assigned here: numba would compile the text of the error that does not occur, for four seconds.
    """
    width = rows.shape[1]
    above = np.zeros(width, np.uint8)
    left = np.zeros(width, np.uint8)
    tried = np.empty((3, width), np.uint8)
    for row in range(len(rows)):
        for place in range(colours, width):
            left[place] = rows[row, place - colours]
        for place in range(width):
            here, before, over = rows[row, place], left[place], above[place]
            tried[0, place] = here - before
            tried[1, place] = here - over
            tried[2, place] = here - ((np.int32(before) + np.int32(over)) >> 1)
        best, least = 0, np.int32(0)
        for kind in range(3):
            total = np.int32(0)
            for place in range(width):
                total += abs(np.int32(np.int8(tried[kind, place])))
            if kind == 0 or total < least:
                best, least = kind, total
        found[row, 0] = 1 + best
        for place in range(width):
            found[row, 1 + place] = tried[best, place]
            above[place] = rows[row, place]
