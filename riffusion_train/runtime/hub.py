"""What is not in a folder of this machine: models by their names, the Hugging Face hub, and other stores.

A model can be named by one that comes with the package, a file or folder, or an id of the hub, to which a finished folder is
also uploaded. Buckets, web servers and other stores are read and written through fsspec; a lease says who may write.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from riffusion_train.runtime.errors import InputError, one_line
from riffusion_train.runtime.files import json_text, link_or_copy, open_atomically, write_atomically

Value = TypeVar("Value")

# --- models that come with the package -------------------------------------------------------------------------------

DEFAULT_MODEL = "laptop"
"""The model that commands take where none is named."""

MODELS = (DEFAULT_MODEL,)
"""The names. As with presets, a name comes before a file or folder of that name, which is `./laptop`."""

PRETRAINED_FOLDER = Path(__file__).resolve().parent.parent / "pretrained"
"""Where they are: a folder for each, as `riffusion export` writes it."""

_INDEX_FILE = "model_index.json"


def has_pretrained(name: str = DEFAULT_MODEL) -> bool:
    """Whether the weights of a model that comes with the package are here; a checkout of the source may lack them."""
    return (PRETRAINED_FOLDER / name / _INDEX_FILE).is_file()


def model_place(source: str | Path) -> str:
    """Return where a model is: the folder of a model that comes with the package, if `source` is its name; else `source`.

    Records and cards keep the name, which means the same on every machine.

    Args:
        source: A name, or a folder, a file or a hub id.

    Raises:
        InputError: If it is the name of a model whose weights are not here.
    """
    name = str(source)
    if name not in MODELS:
        return name
    if not has_pretrained(name):
        raise InputError(
            f"{name}: the weights of this model are not in this installation ({PRETRAINED_FOLDER / name}); name another "
            f"model, or ./{name} for a folder of that name"
        )
    return str(PRETRAINED_FOLDER / name)


# --- the hub ---------------------------------------------------------------------------------------------------------


def check_source(source: str) -> None:
    """Check that a model comes with the package, is a file or folder, or can be the id of one on the hub; nothing is read.

    Raises:
        InputError: If it is none of these.
    """
    if not looks_like_hub_id(source) and not Path(model_place(source)).expanduser().exists():
        raise InputError(f"{source}: no such file or folder, and not a hub id (user/name)")


def looks_like_hub_id(source: str) -> bool:
    """Whether a text has the form of a hub id, `user/name`, and not that of a file or folder."""
    is_path = source.startswith((".", "~", "/")) or source.endswith((".safetensors", ".ckpt"))
    return source.count("/") == 1 and not is_path


def check_repository(repository: str) -> None:
    """Check the name of a repository before anything is written.

    Raises:
        InputError: If it is not `user/name`.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"push_to_hub={repository}: {str(error).splitlines()[0]}") from None
    if repository.count("/") != 1:
        raise InputError(f"push_to_hub={repository}: not a repository; write user/name")


def push(
    folder: Path,
    repository: str,
    *,
    private: bool,
    kind: str = "model",
    replaces: Sequence[str] = (),
    leaves_out: Sequence[str] = (),
    stays: str = "the exported files stay, push again with hf upload",
    endpoint: str | None = None,
) -> str:
    """Upload the files of a folder, except hidden ones, as one commit; a repository that does not exist is made.

    Args:
        folder: The folder.
        repository: `user/name`.
        private: Whether a new repository is private.
        kind: `model` or `dataset`.
        replaces: Patterns of files to delete from the repository if the folder no longer has them.
        leaves_out: Patterns of files that are not uploaded.
        stays: What is left after a failure and how to continue, for the message.
        endpoint: The hub's address; None takes `HF_ENDPOINT` or huggingface.co.

    Returns:
        The address of the repository.

    Raises:
        InputError: If the hub cannot be reached or refuses; what was written stays on disk.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi(endpoint=endpoint)
    try:
        address = api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id,
            repo_type=kind,
            folder_path=folder,
            commit_message=f"Upload the {kind} with riffusion-train",
            ignore_patterns=[".*", *leaves_out],
            delete_patterns=list(replaces) or None,
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"push_to_hub={repository}: {reason}; {stays}") from None
    return str(address)


# --- stores ----------------------------------------------------------------------------------------------------------

_FIRST_WAIT_S = 0.2
_CHUNK_BYTES = 1 << 20
_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "hf"}


class Store:
    """The files below a URL, by their names: paths with forward slashes.

    Nothing is asked of the store before a file is. It may be used by several threads, and by processes forked later.

    Args:
        url: Such as `s3://bucket/folder`, `gs://…`, `file:///folder`, `memory://folder`, `https://…` (only to read).
        tries: How often each request is tried.
    """

    def __init__(self, url: str, *, tries: int = 4) -> None:
        self.url = url.rstrip("/")
        self._tries = tries
        self._files: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": None}

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the content of a file, or its bytes from `start` to before `end`; a negative start counts from its end.

        Raises:
            FileNotFoundError: If there is no such file.
            OSError: If it cannot be read.
        """

        def read(files: Any, path: str) -> bytes:
            content = bytes(files.cat_file(path, start=start, end=end))
            if start is not None and end is not None and len(content) != end - start:
                raise OSError(f"{len(content)} bytes came of {end - start}; the server must answer range requests")
            return content

        return self._try(name, read)

    def find(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none.

        Raises:
            OSError: If that cannot be found out.
        """
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file.

        Raises:
            OSError: If it cannot be written.
        """

        def write(files: Any, path: str) -> None:
            if _makes_folder(files, path):  # a store itself shows files only when they are whole
                write_atomically(Path(path), content)
            else:
                files.pipe_file(path, content)

        self._try(name, write)

    def upload(self, source: BinaryIO, name: str) -> None:
        """Write a file from an open one, from its beginning; in some stores a failure leaves a part of it under its name.

        Raises:
            OSError: If it cannot be written.
        """

        def upload(files: Any, path: str) -> None:
            source.seek(0)
            local = _makes_folder(files, path)
            with open_atomically(Path(path)) if local else files.open(path, "wb") as target:
                shutil.copyfileobj(source, target, _CHUNK_BYTES)

        self._try(name, upload)

    def download(self, name: str, target: Path) -> None:
        """Write a file of the store to this machine's disk, whole or not at all.

        Raises:
            FileNotFoundError: If there is no such file.
            OSError: If it cannot be read, or not written here.
        """

        def download(files: Any, path: str) -> None:
            with files.open(path, "rb") as source, open_atomically(target) as copy:
                shutil.copyfileobj(source, copy, _CHUNK_BYTES)

        target.parent.mkdir(parents=True, exist_ok=True)
        self._try(name, download)

    def copy(self, name: str, target: str) -> None:
        """Give a file a second name, without fetching it where the store can copy.

        Raises:
            FileNotFoundError: If there is no such file.
            OSError: If it cannot be copied.
        """

        def copy(files: Any, path: str) -> None:
            end = f"{self._opened()[1]}/{target}"
            if _makes_folder(files, end):
                link_or_copy(Path(path), Path(end))
            else:
                files.cp_file(path, end)

        self._try(name, copy)

    def names(self, folder: str = "") -> dict[str, int]:
        """Return the files in a folder and its subfolders, with their sizes in bytes; none where there is no such folder.

        Raises:
            OSError: If they cannot be listed.
        """

        def find(files: Any, path: str) -> dict[str, int]:
            root = self._opened()[1]
            files.invalidate_cache()
            found = files.find(path.rstrip("/"), detail=True)
            return {name.removeprefix(root).lstrip("/"): int(entry["size"] or 0) for name, entry in found.items()}

        try:
            return self._try(folder, find)
        except FileNotFoundError:
            return {}

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already are left out.

        Raises:
            OSError: If one cannot be removed.
        """
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._try(name, lambda files, path: files.rm_file(path))

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with all that is in it, if it is there; object stores remove a thousand files with one request.

        Raises:
            OSError: If something cannot be removed.
        """
        with contextlib.suppress(FileNotFoundError):
            self._try(folder, lambda files, path: (files.invalidate_cache(), files.rm(path, recursive=True)))

    def _try(self, name: str, work: Callable[[Any, str], Value]) -> Value:
        """Do something with fsspec's file system and the path of a file in it, several times if need be."""
        for tries_left in reversed(range(self._tries)):
            try:
                files, root = self._opened()
                return work(files, f"{root}/{name}")
            except FileNotFoundError:
                raise
            except Exception as error:  # every fsspec backend raises its own classes
                if not tries_left or isinstance(error, ImportError | ValueError):
                    raise StoreError(self.url, name, error) from error
            time.sleep(_FIRST_WAIT_S * 2 ** (self._tries - 1 - tries_left))
        raise AssertionError("the last try returns or raises")

    def _opened(self) -> tuple[Any, str]:
        if self._files is None or self._files[0] != os.getpid():  # fsspec's clients do not survive a fork
            import fsspec

            files, root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True)
            self._files = os.getpid(), files, root.rstrip("/")
        return self._files[1:]


def _makes_folder(files: Any, path: str) -> bool:
    """Make the folder of a file, but no bucket, where no other folders are needed. Return whether it is on this machine."""
    protocols = {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
    if not protocols & _BUCKETS:
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
    return "file" in protocols


class StoreError(OSError):
    """A request to a store failed, each time that it was tried; `strerror` says why, with the fix, also in another process.

    Args:
        url: The store's.
        name: The file's.
        error: What fsspec's backend raised.
    """

    def __init__(self, url: str, name: str, error: Exception) -> None:
        number = getattr(error, "errno", None) or errno.EIO
        super().__init__(number, store_problem(error, one_line(error)), f"{url}/{name}")
        self.error = error

    def __str__(self) -> str:
        return f"{self.filename}: {one_line(self.error)}"


def store_problem(error: Exception, missing: str) -> str:
    """Return on one line why a store cannot be used, and the fix.

    Args:
        error: What a `Store` or fsspec raised.
        missing: What to say where there is nothing at the address.
    """
    error = error.error if isinstance(error, StoreError) else error
    said = one_line(error)
    if getattr(error, "errno", None) == errno.ENOSPC:
        return f"{said}; free some space there"
    if isinstance(error, ImportError):
        return f"{said}; pip install 'riffusion-train[remote]'"
    if isinstance(error, FileNotFoundError):
        return f"{said}; {missing.rpartition('; ')[2]}" if "bucket does not exist" in said.lower() else missing
    if isinstance(error, PermissionError) or "credentials" in said.lower() or getattr(error, "status", 0) in (401, 403):
        return (
            f"{said}; give this store's credentials as its own tools take them, such as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS or HF_TOKEN"
        )
    return f"{said}; see whether the address is right and the store can be reached from this machine"


def store_refused(key: str, url: str, error: Exception) -> InputError:
    """Return the error that names a key of the command line, such as `mirror=`, whose store cannot be used."""
    missing = "nothing is there; give the address of a folder in a bucket that exists"
    return InputError(f"{key}{url}: {store_problem(error, missing)}")


# --- who may write ---------------------------------------------------------------------------------------------------

_RENEW_S, _STALE_S = 10.0, 45.0


class Lease:
    """Who writes to a place in a store: one process at a time, which says so in a file, again every ten seconds.

    Stores have no locks. Another process that finds the file watches it: if it changes, the place is taken; if it does not for
    45 s, its owner is gone, and so it is if it was a process of this machine that has ended. No clocks are compared. Should two
    processes take it at the same moment, the one whose file was written over notices it at once or when it renews.

    Args:
        url: Of the place.
        name: Of the file.
        renew_s: How often it is written.
        stale_s: How long an unchanged file is watched.
    """

    def __init__(self, url: str, name: str, *, renew_s: float = _RENEW_S, stale_s: float = _STALE_S) -> None:
        self._store = Store(url, tries=1)
        self._name = name
        self._renew_s, self._stale_s = renew_s, stale_s
        self._token = secrets.token_hex(8)
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self.lost_to: str | None = None
        """Who has taken it over meanwhile; None while it is held."""

    def take(self, key: str) -> None:
        """Take the lease, after watching the file of another process if there is one.

        Args:
            key: What names the place on the command line, such as `mirror=`, for messages.

        Raises:
            InputError: If another process holds it.
            OSError: If the store cannot be read and written.
        """
        first = self._store.find(self._name)
        watched_s = 0.0
        while first is not None and not _ended_here(first) and watched_s < self._stale_s:
            if not watched_s:
                whole_s = f"{self._stale_s:.0f} s"
                print(f"note: {key}{self._store.url}: {_owner(first)} writes there, or did; watching it for {whole_s}",
                      file=sys.stderr, flush=True)  # fmt: skip
            time.sleep(self._renew_s / 10)
            watched_s += self._renew_s / 10
            found = self._store.find(self._name)
            if found is None:
                break
            if found != first:
                raise self._refused(key, found)
        self._write(0)
        found = self._store.find(self._name)
        if found is None or json.loads(found)["token"] != self._token:
            raise self._refused(key, found)
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give it up, if it is held."""
        if self._thread is None:
            return
        self._ending.set()
        self._thread.join()
        self._thread = None
        if self.lost_to is None:
            with contextlib.suppress(OSError):  # it goes stale by itself
                self._store.remove([self._name])

    def _refused(self, key: str, found: bytes | None) -> InputError:
        return InputError(
            f"{key}{self._store.url}: {_owner(found)} is writing there; wait until it has ended, or choose another address"
        )

    def _write(self, count: int) -> None:
        content = {"token": self._token, **_this_process(), "count": count}
        self._store.write(self._name, json_text(content).encode())

    def _renew(self) -> None:
        count = 0
        while not self._ending.wait(self._renew_s):
            with contextlib.suppress(OSError, ValueError):  # tried again at the next turn
                found = self._store.find(self._name)
                if found is not None and json.loads(found).get("token") != self._token:
                    self.lost_to = _owner(found)
                    return
                count += 1
                self._write(count)


def _this_process() -> dict[str, Any]:
    boot = Path("/proc/sys/kernel/random/boot_id")
    since = boot.read_text().strip() if boot.is_file() else ""
    return {"host": socket.gethostname(), "boot": since, "pid": os.getpid()}


def _ended_here(content: bytes) -> bool:
    """Whether the file of a lease is of a process of this machine that has ended."""
    try:
        owner, mine = json.loads(content), _this_process()
        if (owner["host"], owner["boot"]) != (mine["host"], mine["boot"]) or not mine["boot"]:
            return False
        os.kill(int(owner["pid"]), 0)
    except (ValueError, KeyError, TypeError, ProcessLookupError):  # what cannot be read was written by nobody
        return True
    except PermissionError:  # of another user
        return False
    return False


def _owner(content: bytes | None) -> str:
    try:
        owner = json.loads(content or b"")
        return f"process {owner['pid']} of {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
