"""Files and folders that are there whole or not at all: written beside their target, then renamed.

Readers never see a half-written file, and a job that is killed leaves at most a hidden `.NAME.*.partial` beside the target,
which `remove_partials` clears away. Below: the text of HTML pages that open from disk, with style, script and data in one file,
under a content security policy that names them.
"""

import base64
import contextlib
import errno
import hashlib
import html
import json
import os
import re
import secrets
import shutil
import string
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

from riffusion_train.runtime.errors import InputError

_LARGEST_HEADER = 100_000_000
"""Bytes; safetensors itself refuses longer ones."""


@contextlib.contextmanager
def written_beside(target: Path, *, sync: bool = False, replace: bool = False, parents: bool = False) -> Iterator[Path]:
    """Give a path to write a file or a folder to; it becomes `target` if the block ends without an error.

    On an error, what was written is removed and a file or folder that had the name before stays.

    Args:
        target: The final name.
        sync: Also force the content to the disk before the rename, and the rename itself after it.
        replace: Whether a folder may take the place of one that exists; a file always does.
        parents: Make the parent folders that do not exist, and remove them again on an error.

    Raises:
        OSError: With `target` as its file name, for example when the disk is full, or when `target` is a folder that
            exists and `replace` is not set.
    """
    new_parents = [folder for folder in (target.parent, *target.parent.parents) if parents and not folder.exists()]
    # Unique even across machines, where processes may share a number: two of them may write the same file.
    partial = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if sync:
            _sync_all(partial)
        _rename(partial, target, replace)
        if sync:
            with contextlib.suppress(OSError):  # some network file systems cannot sync a folder
                _sync(target.parent)
    except BaseException as error:
        _remove(partial)
        for folder in new_parents:
            with contextlib.suppress(OSError):  # another process may have put something there
                folder.rmdir()
        # Errors are about the target, which the user knows, unless they are about a file elsewhere.
        if isinstance(error, OSError) and error.errno is not None and _is_about(error, partial):
            raise OSError(error.errno, error.strerror or str(error), str(target)) from error
        raise


@contextlib.contextmanager
def open_atomically(path: Path, *, sync: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only if the block ends without an error.

    Args:
        path: The final name.
        sync: Also force the content to the disk before the rename.

    Raises:
        OSError: As `written_beside`.
    """
    with written_beside(path, sync=sync) as partial, partial.open("wb") as file:
        yield file


def write_atomically(path: Path, data: bytes | str, *, sync: bool = False) -> None:
    """Write a whole file at once, text as UTF-8; see `open_atomically`."""
    with open_atomically(path, sync=sync) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


def json_text(
    data: Any, *, indent: int | None = 2, ascii_only: bool = False, sort_keys: bool = False, allow_nan: bool = True
) -> str:
    """Return `data` as JSON with a final newline.

    Args:
        data: Plain data.
        indent: Spaces for each level; None puts everything on one line.
        ascii_only: Escape all other characters.
        sort_keys: Sort the keys of objects instead of keeping their order.
        allow_nan: Whether infinities and NaN are written, which is not standard JSON; else they raise `ValueError`.
    """
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only, sort_keys=sort_keys, allow_nan=allow_nan)
    return text + "\n"


def write_json(
    path: Path,
    data: Any,
    *,
    indent: int | None = 2,
    ascii_only: bool = False,
    sort_keys: bool = False,
    allow_nan: bool = True,
    sync: bool = False,
) -> None:
    """Write `data` as a whole JSON file; arguments as of `json_text` and `open_atomically`."""
    text = json_text(data, indent=indent, ascii_only=ascii_only, sort_keys=sort_keys, allow_nan=allow_nan)
    write_atomically(path, text, sync=sync)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, by a hard link where the file system has them, else by a copy.

    Args:
        source: The file; it must not be changed in place later.
        target: The second name; a file that has it already stays as it is.

    Raises:
        OSError: If it has to be copied and cannot be.
    """
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        with source.open("rb") as reader, open_atomically(target) as writer:
            shutil.copyfileobj(reader, writer)


def safetensors_header(tensors: Mapping[str, tuple[str, Sequence[int], int]], metadata: Mapping[str, str]) -> bytes:
    """Return the beginning of a safetensors file: eight bytes of length, and the JSON that says where each tensor is.

    Args:
        tensors: By name, in the order of the file: safetensors' code of the dtype, such as `F32`; shape; number of bytes.
        metadata: Texts.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape, num_bytes) in tensors.items():
        start, end = end, end + num_bytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text


def read_safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the JSON of a safetensors file's header, and the position of the first byte after it.

    Raises:
        ValueError: If it is not a safetensors file.
    """
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
        if num_bytes > _LARGEST_HEADER:
            raise ValueError(f"{path}: not a safetensors file")
        header = json.loads(file.read(num_bytes))
    if not isinstance(header, dict):
        raise ValueError(f"{path}: not a safetensors file")
    return header, 8 + num_bytes


def remove_partials(folder: Path, *, recursive: bool = False) -> None:
    """Remove what killed processes left half written in a folder; nobody else may be writing there."""
    pattern = ".*.partial"
    for partial in list(folder.rglob(pattern) if recursive else folder.glob(pattern)):
        _remove(partial)


def is_url(text: str) -> bool:
    """Return whether a text is a URL rather than a path."""
    return re.match(r"[A-Za-z][\w+.-]*://", text) is not None


def refuse_url(key: str, path: str | None, fix: str = "copy it to or from there") -> None:
    """Refuse a URL where only files and folders of this machine can be used; as a path it would name a folder `s3:`.

    Args:
        key: What stands before it on the command line, such as `out=`; empty for a positional.
        path: The path, if one was given.
        fix: What to do, for the message.

    Raises:
        InputError: If the path is a URL.
    """
    if path is not None and is_url(path):
        raise InputError(f"{key}{path}: is a URL, and only a file or folder of this machine works here; {fix}")


def slug(text: str, max_length: int, *, ascii_only: bool = False) -> str:
    """Return a text as part of a file name: small letters and digits, joined by hyphens; "" where there are none.

    Args:
        text: Any text.
        max_length: The most characters.
        ascii_only: Leave out letters and digits beyond ASCII; accents are to be taken off before.
    """
    kept = r"[^a-z0-9]+" if ascii_only else r"[^\w]+"
    return re.sub(kept, "-", text.lower()).strip("-")[:max_length].strip("-")


def _rename(partial: Path, target: Path, replace: bool) -> None:
    if not partial.is_dir() or not target.exists():
        partial.replace(target)
        return
    if not replace:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(partial))
    # A folder cannot be renamed over another: the old one steps aside, and goes when the new one stands.
    aside = partial.with_name(f"{partial.name.removesuffix('.partial')}-old.partial")
    target.rename(aside)
    try:
        partial.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _is_about(error: OSError, partial: Path) -> bool:
    """Whether an error names the partial file or folder, something in it, or nothing."""
    return error.filename is None or str(error.filename).startswith(str(partial))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # the error that led here is the one to report
            path.unlink()


def _sync_all(path: Path) -> None:
    for inner in path.rglob("*") if path.is_dir() else ():
        _sync(inner)
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- pages -----------------------------------------------------------------------------------------------------------


def static_page(package: str, scripts: Sequence[str], title: str, data: Mapping[str, Any]) -> str:
    """Return a page made of the files in a package's folder `static`; all texts in it are data, and none becomes markup.

    Args:
        package: The package; its folder `static` holds `page.html`, `page.css` and the scripts.
        scripts: The parts of the page's script, in order; they share one scope, since browsers load no modules from disk.
        title: The page's title.
        data: What the script reads from the page, as JSON.
    """
    static = files(package) / "static"

    def read(name: str) -> str:
        return (static / name).read_text(encoding="utf-8")

    style = read("page.css")
    script = '"use strict";\n(() => {\n' + "\n".join(read(name) for name in scripts) + "})();\n"
    return string.Template(read("page.html")).substitute(
        title=html.escape(title), policy=content_policy(style, script), style=style, script=script, data=_as_data(data)
    )


def content_policy(style: str, script: str) -> str:
    """Return the page's content security policy: its own style and script, images and sound beside it, nothing else."""
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' data:; media-src 'self'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _as_data(data: Mapping[str, Any]) -> str:
    """Return JSON in which nothing can end the element that holds it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
