"""A copy of a run in a store, uploaded while it trains, from which another machine goes on: `mirror=s3://bucket/run`.

`mirror.json` in the store names the files there that are whole. It is written after what it names and before anything is
removed, so that a job that is killed at any moment leaves nothing that only looks whole. `lease.json` says which process
uploads: two machines that train one run would write over each other's checkpoints.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from riffusion_train.config.train import Resume, TrainConfig
from riffusion_train.runtime.errors import InputError, StoppedError, one_line
from riffusion_train.runtime.files import json_text, written_beside
from riffusion_train.runtime.hub import Lease, Store, store_refused
from riffusion_train.training.distribution import Distribution
from riffusion_train.training.run_folder import (
    BEST_FILE,
    CHECKPOINT_DIR,
    RUN_FILE,
    STATE_FILE,
    Checkpoints,
    RunFolder,
    require_whole,
    step_name,
    step_of,
)

MIRROR_FILE = "mirror.json"
LEASE_FILE = "lease.json"
_SCHEMA = 1
_LOOK_S = 5.0
"""A new checkpoint is noticed after so long; nothing but a look at the run folder is done for it."""
_OTHERS_S = 60.0
"""Metrics, previews and what trackers write are uploaded so often between checkpoints."""
_LONGEST_WAIT_S = 60.0
"""Between two tries of a store that fails; the first follows after a second, each further one after twice as long."""
_LAST_TRIES = 10
"""Tries in a row, about five minutes, after which the end of a training waits no longer."""
_MEET_S = 5.0
"""Ranks that wait for the first one's store meet so often, so that no collective waits for longer."""
_BEST = f"{CHECKPOINT_DIR}/{BEST_FILE}"
_AS_A_WHOLE = (f"{CHECKPOINT_DIR}/step-", "final/")
"""Folders whose files belong together."""


class _LostError(Exception):
    """Another process has taken the mirror."""


class RunMirror:
    """Uploads a run folder from one thread, the newest state first. The store may fail: training goes on.

    Args:
        url: Where in the store.
        run: The run folder.
        total_limit: How many checkpoints are kept in the store, beside the best.
        lease: Says when another process uploads there; then nothing more is uploaded from here. None asks nobody.
        look_s: How often the run folder is looked at.
        others_s: How often what is not a checkpoint is uploaded.
        first_wait_s: How long after a failure the store is tried again.
    """

    def __init__(
        self,
        url: str,
        run: RunFolder,
        total_limit: int,
        lease: Lease | None = None,
        *,
        look_s: float = _LOOK_S,
        others_s: float = _OTHERS_S,
        first_wait_s: float = 1.0,
    ) -> None:
        self.url = url
        self._store = Store(url, tries=1)
        self._run = run
        self._limit = total_limit
        self._lease = lease
        self._look_s, self._others_s, self._first_wait_s = look_s, others_s, first_wait_s
        self._whole: dict[str, int] | None = None  # the files in the store that are whole, with their sizes
        self._sent: dict[str, tuple[int, int] | None] = {}  # size and time of change of what was uploaded
        self._others_due = 0.0
        self._warned = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def start(self) -> None:
        """Begin to upload."""
        self._thread.start()

    def finish(self, timeout_s: float | None = None) -> bool:
        """Upload what is left; return whether that has ended, or was given up, within the time."""
        self._ending.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        failures = 0
        while True:
            ending = self._ending.is_set()
            wait_s = self._look_s
            try:
                self._upload(everything=ending)
            except _LostError as error:
                _say(f"warning: {error}")
                return
            except Exception as error:  # whatever it is, it does not end the training
                failures += 1
                self._warn(error)
                if ending and failures >= _LAST_TRIES:
                    _say(
                        f"warning: mirror={self.url}: is not complete; the run is whole in {self._run.path}, and the same "
                        "command with resume=auto uploads the rest"
                    )
                    return
                wait_s = min(self._first_wait_s * 2 ** (failures - 1), _LONGEST_WAIT_S)
            else:
                if self._warned:
                    self._warned = False
                    _say(f"note: mirror={self.url}: uploads again")
                failures = 0
                if ending:
                    return
            if ending:
                time.sleep(wait_s)
            elif self._ending.wait(wait_s):
                failures = 0

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _say(
                f"warning: mirror={self.url}: {one_line(error)}; the training goes on, and the upload is tried until it works"
            )

    def _upload(self, *, everything: bool) -> None:
        """Upload what is new, then remove old checkpoints from the store."""
        self._check_lease()
        if self._whole is None:
            self._whole = self._read_whole()
        everything = everything or time.monotonic() >= self._others_due
        while (unit := self._next_checkpoint()) is not None:
            # The small files first: metrics are there up to the checkpoint, and a checkpoint without a config is of no use.
            self._send(self._root_files())
            self._send(unit)
            self._remove_old()
            everything = True
        if not everything:
            return
        best = self._run.checkpoints / BEST_FILE
        for unit in (self._root_files(), [best], _files_of(self._run.final), self._others()):
            self._send(unit)
            if self._next_checkpoint() is not None and not self._ending.is_set():
                return  # it comes before the rest
        self._remove_old()
        self._others_due = time.monotonic() + self._others_s

    def _read_whole(self) -> dict[str, int]:
        """Return what is whole in the store, after taking over what is there of this run and clearing away the rest."""
        content = _read_manifest(self._store)
        whole: dict[str, int] = {} if content is None else dict(content["files"])
        if content is not None and content["started"] != _started(self._run):
            whole = {}  # of a start that left no checkpoint
        for folder in self._checkpoints():
            state = self._name(folder / STATE_FILE)
            if state in whole and self._store.find(state) == (folder / STATE_FILE).read_bytes():
                self._sent.update({self._name(path): _stamp(path) for path in _files_of(folder)})
            else:
                whole = {
                    name: size for name, size in whole.items() if name not in _in_folder(whole, self._name(folder))
                }
        for path in (*_files_of(self._run.final), *self._others()):
            if whole.get(self._name(path)) == path.stat().st_size:
                self._sent[self._name(path)] = _stamp(path)
        self._store.remove(name for name in self._store.names(CHECKPOINT_DIR) if name not in whole)
        return whole

    def _send(self, unit: list[Path]) -> None:
        """Upload the files of a unit that are new, in order, and name them in `mirror.json`; none if one is gone meanwhile."""
        assert self._whole is not None
        new = [path for path in unit if path.is_file() and self._sent.get(self._name(path)) != _stamp(path)]
        with contextlib.ExitStack() as stack:
            try:
                # Open files can be read when the folder that they were in is removed meanwhile.
                opened = [(self._name(path), stack.enter_context(path.open("rb"))) for path in new]
            except FileNotFoundError:
                return
            if not opened:
                return
            replaced = {name for name, _ in opened if name.startswith(_AS_A_WHOLE)}
            self._keep({name: size for name, size in self._whole.items() if name not in replaced})
            stamps = {}
            for name, file in opened:
                status = os.fstat(file.fileno())
                stamps[name] = (status.st_size, status.st_mtime_ns)
                self._store.upload(file, name)
        self._keep(self._whole | {name: size for name, (size, _) in stamps.items()})
        self._sent.update(stamps)

    def _check_lease(self) -> None:
        if self._lease is not None and self._lease.lost_to is not None:
            raise _LostError(f"mirror={self.url}: {self._lease.lost_to} uploads there now; this process no longer does")

    def _keep(self, whole: dict[str, int]) -> None:
        """Say in the store what is whole there, unless it says so already."""
        self._check_lease()
        if whole != self._whole:
            _write_manifest(self._store, _started(self._run), whole)
            self._whole = whole

    def _remove_old(self) -> None:
        """Remove the checkpoints beyond the limit from the store, and a final model that the run has no longer."""
        assert self._whole is not None
        best = Checkpoints(self._run.checkpoints, self._limit).best()
        old = {_step_folder(step) for step in _whole_steps(self._whole)[self._limit :]}
        old -= set() if best is None else {self._name(best)}
        old |= set() if self._run.final.is_dir() else {self._name(self._run.final)}
        gone = [name for folder in old for name in _in_folder(self._whole, folder)]
        if gone:
            self._keep({name: size for name, size in self._whole.items() if name not in gone})
            self._store.remove(gone)

    def _next_checkpoint(self) -> list[Path] | None:
        """Return the files of the newest checkpoint that is not uploaded yet; None where all are."""
        for folder in self._checkpoints():
            files = _files_of(folder)
            if files and any(self._sent.get(self._name(path)) != _stamp(path) for path in files):
                return files
        return None

    def _checkpoints(self) -> list[Path]:
        return Checkpoints(self._run.checkpoints, self._limit).steps()[::-1]

    def _root_files(self) -> list[Path]:
        return sorted(path for path in self._run.path.iterdir() if path.is_file() and not path.name.startswith("."))

    def _others(self) -> list[Path]:
        """Return the files beside checkpoints and models: previews, scores, what trackers keep."""
        folders = [path for path in sorted(self._run.path.iterdir()) if path.is_dir() and not path.is_symlink()]
        mine = [one for one in folders if one.name != CHECKPOINT_DIR and not one.name.startswith((".", "final"))]
        return [path for folder in mine for path in _files_of(folder)]

    def _name(self, path: Path) -> str:
        return path.relative_to(self._run.path).as_posix()


def check_mirror(config: TrainConfig, run: RunFolder) -> dict[str, int]:
    """Return the files that are whole in a run's mirror, with their sizes in bytes; none where there is no mirror.

    Raises:
        InputError: If the store cannot be used, or holds another run than the folder, or any run without `resume=auto`.
    """
    if config.mirror is None:
        return {}
    try:
        content = _read_manifest(Store(config.mirror))
    except OSError as error:
        raise store_refused("mirror=", config.mirror, error) from None
    if content is None or not content["files"]:
        return {}
    if config.resume is not Resume.auto:
        raise InputError(
            f"mirror={config.mirror}: a run is there; continue it with resume=auto, or choose another address"
        )
    own = _started(run)
    if own is not None and own != content["started"]:
        raise InputError(
            f"mirror={config.mirror}: holds another run than {run.path}; choose another address, or another run="
        )
    files: dict[str, int] = content["files"]
    if any(name.startswith("/") or ".." in name.split("/") for name in files):
        raise InputError(f"mirror={config.mirror}: its {MIRROR_FILE} names files outside it; choose another address")
    return files


def fetch_run(config: TrainConfig, run: RunFolder, lease: Lease) -> None:
    """Take the mirror for this process, and fetch the run from there where it is further than the run folder.

    Raises:
        InputError: As `check_mirror`, if another process uploads there, and if the store cannot be written.
    """
    assert config.mirror is not None
    check_mirror(config, run)
    try:
        lease.take("mirror=")
        whole, store = check_mirror(config, run), Store(config.mirror)  # as its last owner left it
        if not whole:
            _write_manifest(store, None, {})  # proves that the store can be written
        _fetch_newest(store, run, whole)
    except OSError as error:
        raise store_refused("mirror=", config.mirror, error) from None


def _fetch_newest(store: Store, run: RunFolder, whole: dict[str, int]) -> None:
    """Fetch the newest checkpoint that proves whole, if it is beyond the run folder's own, and all other files but old ones."""
    newest = run.newest_step()
    for step in _whole_steps(whole):
        if step <= newest:
            return
        names = _in_folder(whole, _step_folder(step))
        size = sum(whole[name] for name in names)
        _say(f"note: mirror={store.url}: fetching step {step} of the run, {size / 1e9:.3g} GB")
        roots = sorted((name for name in whole if "/" not in name), key=lambda name: (name != RUN_FILE, name))
        for name in roots:  # an interrupted start then finds a run, and fetches the rest
            store.download(name, run.path / name)
        try:
            _fetch_checkpoint(store, run, step, names)
        except (InputError, FileNotFoundError) as error:
            _say(f"warning: mirror={store.url}: step {step} is damaged ({one_line(error)}); the one before it is taken")
            whole = {name: size for name, size in whole.items() if name not in names}
            _write_manifest(store, _started(run), whole)
            continue
        _fetch_others(store, run, whole)
        return


def _fetch_others(store: Store, run: RunFolder, whole: dict[str, int]) -> None:
    """Fetch the best checkpoint, the final model, previews and scores."""
    for name in whole:
        if "/" in name and not name.startswith(f"{CHECKPOINT_DIR}/"):
            store.download(name, run.path / name)
    if _BEST not in whole:
        return
    store.download(_BEST, run.path / _BEST)
    step = json.loads((run.path / _BEST).read_text(encoding="utf-8"))["step"]
    names = _in_folder(whole, _step_folder(step))
    if names and not (run.path / _step_folder(step)).is_dir():
        _fetch_checkpoint(store, run, step, names)


def _fetch_checkpoint(store: Store, run: RunFolder, step: int, names: list[str]) -> None:
    """Fetch a checkpoint, and prove that it is what was written.

    Raises:
        InputError: If it is not.
        OSError: If it cannot be read.
    """
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    with written_beside(run.path / _step_folder(step), replace=True) as partial:
        for name in names:
            store.download(name, partial / Path(name).name)
        require_whole(partial)


@contextlib.contextmanager
def leased_mirror(config: TrainConfig) -> Iterator[Lease | None]:
    """Give the lease of the run's mirror, not taken yet, and give it up at the end of a block; None without a mirror."""
    if config.mirror is None or config.cache_only:
        yield None
        return
    with contextlib.closing(Lease(config.mirror, LEASE_FILE)) as lease:
        yield lease


@contextlib.contextmanager
def mirrored(config: TrainConfig, run: RunFolder, distribution: Distribution, lease: Lease | None) -> Iterator[None]:
    """Upload the run while a block runs, if a mirror is set, and wait at its end until everything is there. All ranks join.

    An error that another rank may not know is passed on after the first rank has uploaded what there is.
    """
    if config.mirror is None:
        yield
        return
    mirror = RunMirror(config.mirror, run, config.checkpoints_total_limit, lease)
    if distribution.is_main:
        mirror.start()
    try:
        yield
    except StoppedError:
        _finish_together(mirror, distribution)
        raise
    except Exception:
        if distribution.is_main:
            mirror.finish()
        raise
    _finish_together(mirror, distribution)


def fetch_together(config: TrainConfig, run: RunFolder, distribution: Distribution, lease: Lease | None) -> None:
    """Fetch the run from its mirror, if there is one to train with, on the first rank, while the others wait. All ranks join.

    Raises:
        InputError: As `fetch_run`, on every rank.
    """
    if lease is None:
        return
    problems: list[Exception] = []

    def fetch() -> None:
        try:
            fetch_run(config, run, lease)
        except Exception as error:
            problems.append(error)

    thread = threading.Thread(target=fetch, daemon=True)
    if distribution.is_main:
        thread.start()
    _meet_until(lambda: _ended(thread), distribution)

    def report() -> None:
        for problem in problems:
            raise problem

    distribution.run_together(report)


def _finish_together(mirror: RunMirror, distribution: Distribution) -> None:
    if distribution.is_main and not mirror.finish(_MEET_S):
        _say(f"note: waiting for the upload to mirror={mirror.url}")
    _meet_until(lambda: mirror.finish(_MEET_S), distribution)


def _meet_until(done: Callable[[], bool], distribution: Distribution) -> None:
    """Wait for the first rank, in one short collective after the other. All ranks join."""
    while not distribution.from_main(lambda: done() if distribution.is_main else True):
        pass


def _ended(thread: threading.Thread) -> bool:
    thread.join(_MEET_S)
    return not thread.is_alive()


def _read_manifest(store: Store) -> dict[str, Any] | None:
    """Return the content of `mirror.json`; None where there is none.

    One that is damaged is made anew from what is there: checkpoints that are not whole show by their hashes.

    Raises:
        OSError: If the store cannot be read.
        InputError: If it was written by a newer version.
    """
    text = store.find(MIRROR_FILE)
    try:
        content: dict[str, Any] | None = None if text is None else json.loads(text)
    except ValueError:
        files = {name: size for name, size in store.names().items() if name not in (MIRROR_FILE, LEASE_FILE)}
        first = (store.find("overrides.jsonl") or b"").decode(errors="replace").partition("\n")[0]
        return {"schema_version": _SCHEMA, "started": first or None, "files": files}
    if content is not None and content["schema_version"] > _SCHEMA:
        raise InputError(f"{store.url}: written by a newer riffusion-train; pip install --upgrade riffusion-train")
    return content


def _write_manifest(store: Store, started: str | None, whole: dict[str, int]) -> None:
    content = {"schema_version": _SCHEMA, "started": started, "files": dict(sorted(whole.items()))}
    store.write(MIRROR_FILE, json_text(content).encode())


def _started(run: RunFolder) -> str | None:
    """Return what tells a run from all others: the line that its first start wrote."""
    try:
        with run.overrides_file.open(encoding="utf-8") as file:
            return file.readline().rstrip("\n") or None
    except OSError:
        return None


def _whole_steps(whole: dict[str, int]) -> list[int]:
    """Return the steps of the checkpoints among the names of whole files, newest first."""
    folders = {Path(name).parent for name in whole if Path(name).name == STATE_FILE}
    return sorted((step_of(folder) for folder in folders), reverse=True)


def _step_folder(step: int) -> str:
    return f"{CHECKPOINT_DIR}/{step_name(step)}"


def _in_folder(names: Iterable[str], folder: str) -> list[str]:
    return [name for name in names if name.startswith(f"{folder}/")]


def _files_of(folder: Path) -> list[Path]:
    """Return the files of a folder and its subfolders, sorted, without hidden ones; none where there is no such folder."""
    found = []
    for directory, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(directory, name) for name in files if not name.startswith(".")]
    return sorted(found)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return the size of a file and the time of its last change; None where it is gone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
