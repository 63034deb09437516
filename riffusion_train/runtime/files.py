"""Files that are there whole or not at all: written beside, then renamed."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def open_atomically(path: Path, sync: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only if the block ends without an error.

    Args:
        path: The name in the end.
        sync: Also force the content to the disk before the rename.

    Raises:
        OSError: With `path` as its file name, for example when the disk is full.
    """
    # Processes on two machines may have one number, and write the same track after a node was taken for lost.
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes, sync: bool = False) -> None:
    """Write a whole file at once; see `open_atomically`."""
    with open_atomically(path, sync) as file:
        file.write(data)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, without its content taking room twice where the file system can do that.

    Args:
        source: The file; it must not be changed in place later.
        target: The second name; one that is there already stays as it is.

    Raises:
        OSError: If it has to be copied and cannot be.
    """
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        with source.open("rb") as read, open_atomically(target) as file:
            shutil.copyfileobj(read, file)
