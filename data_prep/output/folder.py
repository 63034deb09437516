"""One run of `prepare` and its output folder: its settings, what the folder may hold, who may write, how a dataset is finished.

A run has a config, sources and settings; two runs that write to one folder must have the same settings. Everything is made in
`<out>/.work`. `stats.json` is the first file that is removed from an old dataset and the last that is moved into a new one,
so a folder that has it is complete. If `out=` is a URL, all of this is in the store, and here is what is at work.
"""

import contextlib
import dataclasses
import enum
import fcntl
import functools
import json
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.inputs.storage import DATASETS_PREFIX
from data_prep.inputs.tracks import Sources
from data_prep.tracks.track_store import RemoteTrackStore, TrackStore
from data_prep.tracks.track_worker import CutParameters
from riffusion_train.config.prepare import CaptionCheck, PrepareConfig
from riffusion_train.config.spectrogram import SPECTROGRAM_FILE, to_data
from riffusion_train.dataset import layout
from riffusion_train.runtime.errors import InputError, StoppedError, one_line
from riffusion_train.runtime.files import is_url, json_text, remove_partials, write_json
from riffusion_train.runtime.hub import Lease, Store, store_refused

_HOW_IT_RUNS = (
    *("num_workers", "engine", "ray_address", "dry_run", "overwrite", "push_to_hub", "private", "part"),
    *("page", "page_slices", "page_audio", "page_mb", "push_page", "captioner_key_env", "captioner_batch_size"),
)
_NOT_SETTINGS = ("out", *_HOW_IT_RUNS, "license", "language", "spectrogram")
"""Keys that do not change the dataset, two that change its card only, and the one that is listed field by field."""
_READ_BEFORE_CUTTING = {"auto", "sidecar", "table", "review", "listen"}
"""Sources of captions that leave the slices as they are: what is heard for them is stored beside."""
_FIX = "choose another out=, or replace it with overwrite=true"


@dataclasses.dataclass(frozen=True)
class PrepareRun:
    """What a run makes a dataset of, and with which settings."""

    config: PrepareConfig
    sources: Sources
    parameters: dict[str, Any]
    """Every setting that the dataset depends on, by its key on the command line, as `stats.json` records it."""
    digest: str
    """Hash of all sources as they were found, before captions were composed."""
    arguments: tuple[str, ...] = ()
    """The command line after the verb, for the card; empty when called from Python."""

    @property
    def out(self) -> Path:
        """The dataset folder; of a URL, its last part is what counts."""
        return Path(self.config.out)

    @functools.cached_property
    def cut(self) -> CutParameters:
        """The cutting parameters."""
        return CutParameters.from_config(self.config)

    @functools.cached_property
    def key(self) -> str:
        """Key of the cutting parameters."""
        return self.cut.key

    @property
    def command(self) -> str:
        """The command for the card; empty when called from Python."""
        return command_line(self.arguments, self.out) if self.arguments else ""


def make_run(config: PrepareConfig, sources: Sources, arguments: Sequence[str] = ()) -> PrepareRun:
    """Build the run of a config."""
    return PrepareRun(config, sources, _parameters_of(config), sources.digest(), tuple(arguments))


def _parameters_of(config: PrepareConfig) -> dict[str, Any]:
    """Return every setting that the dataset depends on, by its key on the command line."""
    plain = {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.name not in _NOT_SETTINGS
    }
    codec = to_data(config.spectrogram)["spectrogram"]
    return plain | {"audio": _absolute(config.audio)} | {f"spectrogram.{key}": codec[key] for key in codec}


def command_line(arguments: Sequence[str], out: Path) -> str:
    """Return the command for the card: the arguments that decide what the dataset is, and the name of its folder.

    It is the same for any number of workers and parts, and wherever the folder is.
    """
    left_out = tuple(f"{key}=" for key in ("out", *_HOW_IT_RUNS))
    shown = [argument for argument in arguments if not argument.startswith(left_out)]
    return shlex.join(["riffusion", "prepare", *shown, f"out={out.name}"])


def refuse_differences(made: Mapping[str, Any], asked: Mapping[str, Any], where: Path | str, fix: str = _FIX) -> None:
    """Refuse to continue a dataset with other settings than it was begun with.

    Args:
        made: The settings that it was begun with.
        asked: The settings now.
        where: Its folder.
        fix: What to do, for the message.

    Raises:
        InputError: Naming the first keys that differ, with both values.
    """
    defaults = {field.name: _plain(field.default) for field in dataclasses.fields(PrepareConfig)}
    made = {**defaults, **made}  # a setting that an older version did not have was at its default
    differing = [key for key in {**made, **asked} if key in asked and made.get(key) != asked[key]]
    if not differing:
        return
    shown = ", ".join(f"{key}={_typed(made.get(key))} (now {_typed(asked[key])})" for key in differing[:3])
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    raise InputError(f"{where} was made with {shown}{more}; {fix}")


def _with_new_captions(made: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a finished dataset, except those of its captions that may be others now.

    They are the check of captions, and the table of captions if one is named now. Captions are then written anew, and no audio
    is decoded that has been heard: `captions.csv` of the dataset page comes back in this way. The source of the captions may
    change with the table as long as the audio is cut in the same manner.
    """
    replaced = ["check_captions"] if "check_captions" in asked else []
    if asked.get("table") is not None:
        replaced.append("table")
    if "table" in replaced and {made.get("captions"), asked.get("captions")} <= _READ_BEFORE_CUTTING:
        replaced.append("captions")
    return {**made, **{key: asked[key] for key in replaced}}


def read_parameters(path: Path) -> dict[str, Any] | None:
    """Read the settings of an unfinished run; None if there are none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _absolute(audio: str) -> str:
    return audio if is_url(audio) or audio.startswith(DATASETS_PREFIX) else str(Path(audio).resolve())


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def _typed(value: Any) -> str:
    """Return a value as the user would type it."""
    return "null" if value is None else str(value)


PICTURES_DIR = "pictures"
_LEFT_OUT_DIR = ".left_out"
"""Track store of what was cut and is not in the dataset, such as duplicates, so that extending it need not cut them again."""
CAPTIONER_DIR = ".captioner"
"""The answers of captioners, which stay when the dataset is made anew."""
_LEASE_FILE = f"{layout.WORK_DIR}/lease.json"
_PARAMETERS_FILE = f"{layout.WORK_DIR}/parameters.json"
_OURS = (
    *(layout.SHARD_DIR, layout.CARD_FILE, layout.MANIFEST_FILE, SPECTROGRAM_FILE, PICTURES_DIR, _LEFT_OUT_DIR),
    layout.STATS_FILE,
)


class OutputFolder:
    """The folder of a dataset, or of one part of an array job, with its working folder.

    Args:
        folder: The folder; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)
        """For messages."""
        self.work = folder / layout.WORK_DIR
        self.tracks = self.work / "tracks"
        self.assembled = self.work / "assembled"
        self.parameters_file = folder / _PARAMETERS_FILE

    def dataset(self) -> layout.DatasetFolder:
        """Open the finished dataset.

        Raises:
            InputError: If something of it is missing.
        """
        return layout.open_dataset_folder(self.folder)

    def store(self, key: str) -> TrackStore:
        """Return the store of the tracks that are cut with the parameters of a key."""
        return TrackStore(self.tracks.absolute(), key)

    def keep_left_out(self, key: str, file_hashes: Iterable[str]) -> None:
        """Keep tracks that are not, or not completely, in the shards of the assembled dataset, where they were cut."""
        for file_hash in file_hashes:
            self.store(key).share(file_hash, TrackStore(self.assembled / _LEFT_OUT_DIR, key))

    def is_complete(self, run: PrepareRun) -> bool:
        """Return whether the folder holds exactly the dataset that a run makes.

        Raises:
            InputError: If the folder holds something else, or a dataset, finished or not, with other settings.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"out={self.name}: a file of that name is in the way")
        if run.config.overwrite:
            if not self.work.is_dir() and not (self.folder / layout.STATS_FILE).is_file():
                self._refuse_foreign()
            return False
        stats = layout.read_stats(self.folder)
        if stats is None:
            begun = read_parameters(self.parameters_file)
            if begun is None:
                self._refuse_foreign()
            else:
                refuse_differences(begun, run.parameters, self.name)
            return False
        made = stats["parameters"]
        refuse_differences(_with_new_captions(made, run.parameters), run.parameters, self.name)
        # With other sources the dataset is extended; with another licence or language only its card is written again.
        same_license = stats.get("license", run.config.license) == run.config.license
        same_language = stats.get("language") == run.config.language
        same_check = made.get("check_captions", CaptionCheck.off.value) == run.parameters["check_captions"]
        return bool(stats["sources_digest"] == run.digest and same_license and same_language and same_check)

    def _refuse_foreign(self) -> None:
        other = sorted(self._content() - {layout.WORK_DIR, CAPTIONER_DIR})
        if other:
            raise InputError(
                f"out={self.name} is not empty and not a dataset ({other[0]} is in it); choose an empty or new folder"
            )

    def _content(self) -> set[str]:
        """Return the names of what is in the folder."""
        return {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the working folder and lock it against other commands.

        A run that fails binds nothing: its settings are forgotten, and the next one may have others. What it has cut stays,
        under the key of the parameters that it was cut with. The settings of a run that was stopped or killed stay.

        Raises:
            InputError: If another command is writing to this folder, or the folder is removed in the meantime.
        """
        self.tracks.mkdir(parents=True, exist_ok=True)
        with (self.work / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"out={self.folder}: another riffusion prepare is writing to it") from None
            try:
                yield
            except StoppedError:
                raise
            except Exception as error:
                with contextlib.suppress(OSError):
                    self.parameters_file.unlink()
                if self._is_removed(error):
                    raise InputError(
                        f"out={self.folder}: the folder, or something in it, was removed while it was being written; run the "
                        "same command again"
                    ) from None
                raise

    def _is_removed(self, error: Exception) -> bool:
        """Whether an error comes of it that somebody else removed this folder or something in it."""
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            return False
        inside = error.filename is not None and Path(error.filename).absolute().is_relative_to(self.folder.absolute())
        return inside or not self.tracks.is_dir()

    def record(self, parameters: Mapping[str, Any]) -> None:
        """Record the settings of this run for the next one to compare, and delete what a killed run left half-written."""
        remove_partials(self.work, recursive=True)
        write_json(self.parameters_file, dict(parameters))

    def keep_answers(self) -> None:
        """Keep what captioners answered, wherever the folder is."""

    def keep_shard(self, path: Path) -> None:
        """Keep a shard of the assembled dataset, wherever the folder is."""

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[Path]:
        """Give a path at which a shard of the finished dataset can be read."""
        yield path

    def begin(self, parameters: Mapping[str, Any]) -> None:
        """Record the settings, see `record`, and create empty folders for the dataset."""
        self.record(parameters)
        shutil.rmtree(self.assembled, ignore_errors=True)
        for name in (layout.SHARD_DIR, _LEFT_OUT_DIR, PICTURES_DIR):
            (self.assembled / name).mkdir(parents=True)

    def finish(self) -> None:
        """Move the assembled dataset into place, and delete the working folder."""
        (self.folder / layout.STATS_FILE).unlink(missing_ok=True)
        (self.folder / layout.PAGE_FILE).unlink(
            missing_ok=True
        )  # it shows the old dataset; its sounds can be of use again
        for name in _OURS:
            old, new = self.folder / name, self.assembled / name
            if old.is_dir():
                shutil.rmtree(old)
            if new.exists():
                new.replace(old)
        self.clear()

    def clear(self) -> None:
        """Delete the working folder."""
        shutil.rmtree(self.work, ignore_errors=True)

    def cut_before(self, key: str) -> TrackStore:
        """Return the store of what the finished dataset keeps beside its shards."""
        return TrackStore(self.folder / _LEFT_OUT_DIR, key)


class RemoteOutput(OutputFolder):
    """A dataset in a store, with its working folder; a folder of this machine holds its small files, and a shard at a time.

    Cut tracks go to the store from the machine that cuts them. Shards are uploaded as they are written; before the first one
    `stats.json` is removed there, and it is uploaded last. A lease replaces the lock.

    Args:
        url: Where the dataset is.
        folder: An empty folder of this machine.
    """

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(folder)
        self.name = url.rstrip("/")
        self._store = Store(url)
        self._lease = Lease(url, _LEASE_FILE)
        self._uploaded: set[str] = set()

    def fetch(self) -> None:
        """Fetch the small files of the dataset that is there, or of one that was begun.

        Raises:
            InputError: If the store cannot be used.
        """
        names = [layout.STATS_FILE, SPECTROGRAM_FILE, layout.MANIFEST_FILE, _PARAMETERS_FILE]
        self.folder.mkdir()
        try:
            for name in [*names, *self._store.names(CAPTIONER_DIR)]:
                if (content := self._store.find(name)) is not None:
                    (self.folder / name).parent.mkdir(exist_ok=True)
                    (self.folder / name).write_bytes(content)
            if names[0] in super()._content() and set(self._store.names(layout.WORK_DIR)) - {_LEASE_FILE}:
                self.work.mkdir(exist_ok=True)  # the last run was killed while it removed this folder
        except OSError as error:
            raise self._refused(error) from None

    def dataset(self) -> layout.DatasetFolder:
        """Open the finished dataset, whose shards are not here."""
        return layout.open_dataset_folder(self.folder, check_shards=False)

    def store(self, key: str) -> TrackStore:
        """Return the store of the tracks that are cut with the parameters of a key."""
        return RemoteTrackStore(Path(layout.WORK_DIR, "tracks"), key, store=self._store)

    def cut_before(self, key: str) -> TrackStore:
        """Return the store of what the dataset keeps beside its shards."""
        return RemoteTrackStore(Path(_LEFT_OUT_DIR), key, store=self._store)

    def keep_left_out(self, key: str, file_hashes: Iterable[str]) -> None:
        """Keep tracks that are not, or not completely, in the shards, without fetching them."""
        kept = self.cut_before(key)
        for file_hash in file_hashes:
            self.store(key).share(file_hash, kept)
            self._uploaded.add(kept.path(file_hash).as_posix())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from writing there; see `OutputFolder.locked`.

        Raises:
            InputError: If another command is writing there, or the store cannot be used.
        """
        try:
            self._lease.take("out=")
        except OSError as error:
            raise self._refused(error) from None
        with contextlib.closing(self._lease):
            try:
                with super().locked():
                    yield
            except StoppedError:
                raise
            except Exception as error:
                if self._lease.lost_to is None:
                    with contextlib.suppress(OSError):
                        self._store.remove([_PARAMETERS_FILE])
                if isinstance(error, OSError) and (error.filename is None or str(error.filename).startswith(self.name)):
                    raise self._refused(error) from None
                raise

    def record(self, parameters: Mapping[str, Any]) -> None:
        """Record the settings of this run for the next one to compare."""
        super().record(parameters)
        self._store.write(_PARAMETERS_FILE, json_text(dict(parameters)).encode())

    def keep_answers(self) -> None:
        """Upload what captioners answered."""
        for path in (self.folder / CAPTIONER_DIR).glob("*"):
            self._upload(path, f"{CAPTIONER_DIR}/{path.name}")

    def keep_shard(self, path: Path) -> None:
        """Upload a shard, and remove it here."""
        if not self._uploaded:
            self._store.remove([layout.STATS_FILE])
        name = path.relative_to(self.assembled).as_posix()
        self._upload(path, name)
        self._uploaded.add(name)
        path.unlink()

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[Path]:
        """Fetch a shard of the finished dataset, and remove it here afterwards."""
        self._store.download(path.relative_to(self.folder).as_posix(), path)
        try:
            yield path
        finally:
            path.unlink()

    def finish(self) -> None:
        """Upload the rest of the assembled dataset, remove what is left of an older one, and delete the working folder."""
        stats = self.assembled / layout.STATS_FILE
        for path in sorted(self.assembled.rglob("*")):
            if path.is_file() and path != stats:
                name = path.relative_to(self.assembled).as_posix()
                self._upload(path, name)
                self._uploaded.add(name)
        ours = tuple(f"{name}/" for name in (layout.SHARD_DIR, PICTURES_DIR, _LEFT_OUT_DIR))
        old = {name for name in self._store.names() if name.startswith(ours)} - self._uploaded
        self._store.remove(sorted(old))
        self._upload(stats, layout.STATS_FILE)
        super().finish()

    def clear(self) -> None:
        """Delete the working folder, there and here."""
        super().clear()
        self._lease.close()  # it is in that folder
        self._store.remove_folder(layout.WORK_DIR)

    def _content(self) -> set[str]:
        return {name.partition("/")[0] for name in self._store.names()}

    def _upload(self, path: Path, name: str) -> None:
        if self._lease.lost_to is not None:
            raise InputError(
                f"out={self.name}: {self._lease.lost_to} writes there now; let it end, or stop one of the two"
            )
        with path.open("rb") as file:
            self._store.upload(file, name)

    def _refused(self, error: OSError) -> InputError:
        if not isinstance(error, FileNotFoundError):
            return InputError(f"out={self.name}: {error.strerror or one_line(error)}")
        if "bucket" in str(error).lower():
            return store_refused("out=", self.name, error)
        return InputError(f"out={self.name}: {error} was removed while it was needed; run the same command again")


@contextlib.contextmanager
def open_output(out: str) -> Iterator[OutputFolder]:
    """Give the output folder that `out=` names, a path or a URL, for the length of a block.

    Raises:
        InputError: If it is in a store that cannot be used.
    """
    if not is_url(out):
        yield OutputFolder(Path(out))
        return
    with tempfile.TemporaryDirectory(prefix="riffusion-prepare-") as folder:
        output = RemoteOutput(out, Path(folder, "dataset"))
        output.fetch()
        yield output
