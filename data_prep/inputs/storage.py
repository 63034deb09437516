"""Where audio files lie: a folder, a glob or list of files, or a folder in an object store or on a web server."""

import functools
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from riffusion_train.runtime.errors import InputError

AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".bwf", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff"),
    *(".aifc", ".au", ".snd", ".caf", ".m4a", ".m4b", ".mp4", ".aac", ".wma", ".wv", ".tta", ".ape", ".ac3", ".mka"),
    *(".webm", ".amr"),
)
"""Which files of a folder are tried. What a file holds is decided by its content, not by this."""
LIST_SUFFIXES = (".txt", ".lst", ".list", ".m3u", ".m3u8")


class Place(Protocol):
    """Audio files by their names, and the small files beside them."""

    label: str
    """What the user called it."""

    def audio(self) -> list[str]:
        """Return the names of the audio files, sorted: paths with forward slashes."""

    def locate(self, name: str) -> str | None:
        """Return the path or URL of a file that is there; None where it is not."""

    def name_of(self, locator: str) -> str:
        """Return the name of a located file."""

    def read(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises:
            OSError: If it cannot be read.
        """

    def size(self, locator: str) -> int:
        """Return a located file's size in bytes; -1 where it is not known."""


class LocalFolder:
    """A folder with its subfolders.

    Args:
        folder: The folder.
        out: A folder in it that is passed over: the dataset that is made.
    """

    def __init__(self, folder: Path, out: Path) -> None:
        self.label = str(folder)
        self.folder = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow links
        self._out = out

    def audio(self) -> list[str]:
        """Return the names of the audio files, sorted; hidden ones are passed over."""
        return [path.relative_to(self.folder).as_posix() for path in find_audio(self.folder, self._out)]

    def locate(self, name: str) -> str | None:
        """Return the absolute path of a file that is there, with either kind of slash in its name; else None."""
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            path = Path(os.path.abspath(self.folder / spelling))  # noqa: PTH100
            if path.is_file():
                return str(path)
        return None

    def name_of(self, locator: str) -> str:
        """Return the path in this folder, or the whole path of a file elsewhere."""
        if is_url(locator):
            return locator
        path = Path(locator)
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.as_posix()

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self.folder / name).read_bytes()

    def size(self, locator: str) -> int:
        """Return the size of a file; -1 where it is gone."""
        path = Path(locator)
        return path.stat().st_size if path.is_file() else -1


class FileList(LocalFolder):
    """Chosen files, named by their paths in a common folder."""

    def __init__(self, label: str, folder: Path, files: Sequence[Path]) -> None:
        super().__init__(folder, folder / ".work")
        self.label = label
        self._files = [str(Path(os.path.abspath(path))) for path in files]  # noqa: PTH100

    def audio(self) -> list[str]:
        """Return the names of the files in the list that are there or not, sorted."""
        return sorted(dict.fromkeys(self.name_of(path) for path in self._files))


class RemoteFolder:
    """A folder behind a URL, by fsspec: `s3://`, `gs://`, `hf://`, `https://`, `memory://` and what else is installed.

    Raises:
        InputError: If the URL's kind is unknown or not installed, or the folder cannot be listed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.label = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url.rstrip("/"))
            self._root = self._root.rstrip("/")
        except (ImportError, ValueError) as error:
            raise InputError(f"audio={url}: {one_line(error)}") from None

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        try:
            found: dict[str, Any] = self._files.find(self._root, detail=True)
        except Exception as error:  # each kind of store has its own
            raise InputError(f"audio={self.label}: cannot be listed: {one_line(error)}") from None
        names = {path.removeprefix(self._root).lstrip("/"): facts for path, facts in found.items()}
        return {name: int(facts.get("size") or -1) for name, facts in names.items()}

    def audio(self) -> list[str]:
        """Return the names of the audio files, sorted.

        Raises:
            InputError: If the folder cannot be listed.
        """
        return sorted(
            name
            for name in self._sizes
            if Path(name).suffix.lower() in AUDIO_SUFFIXES and not any(part[:1] == "." for part in name.split("/"))
        )

    def locate(self, name: str) -> str | None:
        """Return the URL of a file in the listing; a whole URL is believed."""
        if is_url(name):
            return name
        name = name.replace("\\", "/").removeprefix("./")
        return str(self._files.unstrip_protocol(f"{self._root}/{name}")) if name in self._sizes else None

    def name_of(self, locator: str) -> str:
        """Return the path in this folder, or the whole URL of a file elsewhere."""
        return locator.removeprefix(str(self._files.unstrip_protocol(self._root))).lstrip("/")

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return bytes(self._files.cat_file(f"{self._root}/{name}"))

    def size(self, locator: str) -> int:
        """Return the size from the listing."""
        return self._sizes.get(self.name_of(locator), -1)


def make_place(audio: str, out: Path) -> Place:
    """Return the place that `audio=` names: a URL, a folder, one file, a list of files, or a pattern.

    Raises:
        InputError: If there is nothing there.
    """
    path = Path(audio)
    if is_url(audio):
        return RemoteFolder(audio)
    if path.is_dir():
        return LocalFolder(path, out)
    if path.is_file():
        return _read_list(path) if path.suffix.lower() in LIST_SUFFIXES else FileList(audio, path.parent, [path])
    if not glob.has_magic(audio):
        raise InputError(f"audio={audio}: no such folder, file or pattern")
    plain = [part for part in path.parts if not glob.has_magic(part)]
    count = next(index for index, part in enumerate(path.parts) if glob.has_magic(part))
    found = [Path(name) for name in glob.glob(audio, recursive=True)]  # noqa: PTH207 - Path.glob takes no absolute ones
    files = [file for file in found if file.is_file() and file.suffix.lower() in AUDIO_SUFFIXES]
    if not files:
        raise InputError(f"audio={audio}: no audio file is of that pattern")
    return FileList(audio, Path(*plain[:count]), files)


def is_url(text: str) -> bool:
    """Tell whether a text is a URL and no path."""
    return "://" in text


def one_line(error: Exception) -> str:
    """Return what an error says on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def find_audio(folder: Path, out: Path) -> list[Path]:
    """Return the audio files in a folder and its subfolders, sorted; hidden files and the folder `out` are passed over.

    Raises:
        InputError: If there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"audio={folder}: no such folder")
    return sorted(_walk(folder, out.resolve()), key=lambda path: path.as_posix())


def _walk(folder: Path, out: Path) -> Iterator[Path]:
    seen: set[Path] = set()
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        real = Path(directory).resolve()
        if real in seen or real == out:  # a link may lead back up, or into the dataset that is being made
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            path = Path(directory, name)
            if path.suffix.lower() in AUDIO_SUFFIXES and not name.startswith(".") and path.is_file():
                yield path


def _read_list(path: Path) -> FileList:
    """Read a list of files, one a line, relative to the list; lines that begin with # are comments."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"audio={path}: not UTF-8 text; save the list as UTF-8") from None
    files = [path.parent / line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not files:
        raise InputError(f"audio={path}: the list names no file")
    return FileList(str(path), path.parent, files)
