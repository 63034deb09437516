"""Opening an input for a worker: a path as it is, a URL or a row of a data set as a copy for the time being."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_prep.hub import PREFIX, write_row_audio
from data_prep.places import is_url, one_line
from riffusion_train.config.errors import InputError


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
