"""Opening an input for a worker: a path as it is, a URL or a row of a data set as a copy for the time being."""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_prep.hub import PREFIX, write_row_audio
from data_prep.places import is_url, one_line
from riffusion_train.runtime.errors import InputError

_VERSIONS = ("etag", "md5hash", "content-md5", "checksum", "generation", "blob_id", "last-modified", "last_modified",
             "lastmodified", "last_commit", "mtime", "modified", "created", "lfs")  # fmt: skip
"""What stores call the facts that change with a file's content."""


def origin_of(locator: str) -> str | None:
    """Return a hash that is the same as long as a remote file is; None for a local one, or where the store does not tell.

    It asks for the file's head alone.
    """
    if not is_url(locator) or locator.startswith(PREFIX):
        return None
    import fsspec

    try:
        files, name = fsspec.core.url_to_fs(locator)
        info = files.info(name)
    except Exception:  # each kind of store has its own; fetching the file tells what is wrong
        return None
    told = sorted((key.lower(), str(value)) for key, value in info.items() if key.lower() in _VERSIONS and value)
    if not told:
        return None
    return hashlib.sha256(json.dumps([locator, info.get("size"), told]).encode()).hexdigest()[:32]


@contextlib.contextmanager
def open_input(locator: str) -> Iterator[Path]:
    """Give a local file with the content of an input.

    Args:
        locator: What a `Track` bears.

    Raises:
        InputError: If it cannot be fetched.
    """
    if is_local(locator):
        yield Path(locator)
        return
    with tempfile.TemporaryDirectory(prefix="riffusion-") as folder:
        path = Path(folder, "input" + PurePosixPath(locator).suffix[:8])
        if locator.startswith(PREFIX):
            write_row_audio(locator, path)
        else:
            _fetch(locator, path)
        yield path


def is_local(locator: str) -> bool:
    """Tell whether an input is a file by its path, and neither a URL nor a row of a data set."""
    return not is_url(locator) and not locator.startswith(PREFIX)


def _fetch(url: str, path: Path) -> None:
    import fsspec

    try:
        files, name = fsspec.core.url_to_fs(url)
        files.get_file(name, str(path))
    except Exception as error:  # each kind of store has its own
        raise InputError(f"cannot be fetched: {one_line(error)}") from None
