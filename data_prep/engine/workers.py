"""Workers: a pool of processes on this machine, or the nodes of a Ray cluster, with one task at a time each.

If a worker of the pool dies, only its task is lost. On Linux the workers are forked from a server that has imported what they
need, so a pool of any size imports it once. `concurrent.futures` cannot say which task killed its pool; here each worker has
its own pipe, so the parent knows. When the parent is gone, the pipes end and the workers exit by themselves.

With `engine=ray`, Ray decides where a task runs, and runs it again elsewhere when a node is lost. On the node a child process
of ours does the task, as in the pool, so that a crashing decoder costs only its file and can be distinguished from a lost
node. The slices go to `out=` and not through Ray: the nodes share a file system, or nothing but a store.
"""

import contextlib
import functools
import itertools
import multiprocessing
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.progress import listening

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_IMPORTED_ONCE = ["data_prep.tracks.track_worker", "riffusion_train.audio.codec"]
_READY = -1
_POLL_S = 0.2
_START_ATTEMPTS = 2
"""Failed starts per worker after which a run ends."""


class WorkerDied:
    """The result of a task whose process was killed or crashed.

    Args:
        exit_code: Exit code of the process; minus the number of the signal that killed it.
    """

    def __init__(self, exit_code: int | None) -> None:
        self.exit_code = exit_code

    def __str__(self) -> str:
        if self.exit_code is not None and self.exit_code < 0:
            with contextlib.suppress(ValueError):
                return f"its process was killed by {signal.Signals(-self.exit_code).name}"
        return f"its process ended with exit code {self.exit_code}"


class ShareDone(NamedTuple):
    """What comes instead of a result while a long task goes on: how much of it is done, from 0 to 1."""

    share: float


def run_here(
    make: Callable[[Any], Callable[[Any], Any]], setup: Any, tasks: Sequence[Any]
) -> Generator[tuple[int, Any], None, None]:
    """Run the tasks in this process, in order; yields (index, result). Arguments as of `run_in_processes`."""
    do = make(setup)
    for index, task in enumerate(tasks):
        yield index, do(task)


def run_in_processes(
    make: Callable[[Any], Callable[[Any], Any]],
    setup: Any,
    tasks: Sequence[Any],
    num_workers: int,
    log: Path,
    stopped: Callable[[], bool] = lambda: False,
) -> Generator[tuple[int, Any], None, None]:
    """Run the tasks in `num_workers` processes; yields (index, result) in the order in which they are finished.

    The result of a task whose process crashed is a `WorkerDied`. A long task may have several `ShareDone` before its result.
    The iteration ends early once `stopped()` is true.

    Args:
        make: Module-level function that builds the function for the tasks from `setup`, once in each process.
        setup: Argument of `make`; it must be picklable, as must tasks and results.
        tasks: Arguments of the function that `make` builds.
        num_workers: Number of processes.
        log: File that receives what the workers, and the libraries in them, print to stderr.
        stopped: Whether to stop; called at least five times a second.

    Raises:
        Exception: What a task raised, which ends the run.
        RuntimeError: If processes cannot be started.
    """
    workers: dict[Connection, _Worker] = {}
    upcoming = iter(enumerate(tasks))
    pending = len(tasks)
    failed_starts = 0
    try:
        for _ in range(min(num_workers, len(tasks))):
            _add(workers, _start(make, setup, log))
        while pending and not stopped():
            for pipe in wait(list(workers), timeout=_POLL_S):
                assert isinstance(pipe, Connection)
                worker = workers[pipe]
                try:
                    index, result, fault = pipe.recv()
                except (EOFError, ConnectionError):
                    died, index = workers.pop(pipe).reap(), worker.task
                    if index is None:
                        failed_starts += 1
                        if failed_starts >= _START_ATTEMPTS * num_workers:
                            raise RuntimeError(f"worker processes do not start: {died}; see {log}") from None
                    else:
                        pending -= 1
                        yield index, died
                    if pending:
                        _add(workers, _start(make, setup, log))
                    continue
                if fault is not None:
                    raise fault
                if isinstance(result, ShareDone):
                    yield index, result
                    continue
                if index != _READY:
                    pending -= 1
                    yield index, result
                worker.give(next(upcoming, None))
    finally:
        for worker in workers.values():
            worker.stop()


class SoleWorker:
    """A single worker process that is restarted after it has died, for callers with a pool of their own.

    Args:
        make: Module-level function that builds the function for the tasks from `setup`, once in each process.
        setup: Argument of `make`.
        log: File that receives what the worker prints to stderr.
    """

    def __init__(self, make: Callable[[Any], Callable[[Any], Any]], setup: Any, log: Path) -> None:
        self._make, self._setup, self._log = make, setup, log
        self._worker: _Worker | None = None

    def __call__(self, task: Any) -> Any:
        """Return the task's result; a `WorkerDied` if its process crashed.

        Raises:
            Exception: What the task raised.
            RuntimeError: If no process can be started.
        """
        worker = self._worker = self._worker or self._started()
        worker.give((0, task))
        try:
            while isinstance((answer := worker.pipe.recv())[1], ShareDone):
                pass
        except (EOFError, ConnectionError):
            self._worker = None
            return worker.reap()
        _, result, fault = answer
        if fault is not None:
            self.stop()
            raise fault
        return result

    def stop(self) -> None:
        """Stop the process."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _started(self) -> "_Worker":
        died: WorkerDied | None = None
        for _ in range(_START_ATTEMPTS):
            worker = _start(self._make, self._setup, self._log)
            try:
                _, _, fault = worker.pipe.recv()
            except (EOFError, ConnectionError):
                died = worker.reap()
                continue
            if fault is None:
                return worker
            worker.stop()
            raise fault
        raise RuntimeError(f"worker processes do not start: {died}; see {self._log}")


class _Worker:
    """A process, its pipe, and the number of the task that it is doing."""

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.task: int | None = None

    def give(self, numbered_task: tuple[int, Any] | None) -> None:
        self.task = numbered_task[0] if numbered_task else None
        if numbered_task is not None:
            with contextlib.suppress(BrokenPipeError):  # it has died; the next receive will notice
                self.pipe.send(numbered_task)

    def reap(self) -> WorkerDied:
        self.process.join()
        self.pipe.close()
        return WorkerDied(self.process.exitcode)

    def stop(self) -> None:
        self.process.kill()  # safe at any time: it writes whole files only
        self.reap()


def _add(workers: dict[Connection, _Worker], worker: _Worker) -> None:
    workers[worker.pipe] = worker


def _start(make: Callable[[Any], Any], setup: Any, log: Path) -> _Worker:
    context = _context()
    ours, theirs = context.Pipe()
    # The fork server keeps the environment that it was started with, so each worker receives the current one.
    environment = {**os.environ, **_ONE_THREAD}
    process = context.Process(target=_serve, args=(theirs, make, setup, str(log), environment), daemon=True)
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    # Workers inherit two things: one thread each, and a blocked SIGINT, since Ctrl-C reaches the whole process group but
    # is for the parent to handle.
    os.environ.update(_ONE_THREAD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    theirs.close()
    return _Worker(process, ours)


def _context() -> Any:
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED_ONCE)
    return context


def _serve(
    pipe: Connection, make: Callable[[Any], Callable[[Any], Any]], setup: Any, log: str, environment: dict[str, str]
) -> None:
    """Run in the worker process: do the tasks from the pipe until it ends."""
    os.environ.clear()
    os.environ.update(environment)
    with contextlib.suppress(OSError):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)  # mpg123 writes to stderr from C
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            do = make(setup)
            pipe.send((_READY, None, None))
            while True:
                index, task = pipe.recv()
                with listening(functools.partial(_send_share, pipe, index)):
                    result = do(task)
                pipe.send((index, result, None))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except InputError as error:
            pipe.send((_READY, None, error))
        except OSError as error:
            pipe.send((_READY, None, OSError(error.errno, error.strerror, error.filename)))
        except Exception:
            pipe.send((_READY, None, RuntimeError("in a worker process:\n" + traceback.format_exc())))


def _send_share(pipe: Connection, index: int, share: float) -> None:
    pipe.send((index, ShareDone(share), None))


_CONNECT_TIMEOUT_S = 5
_RETRIES = 3
_TASKS_PER_CORE = 3
"""Tasks submitted to Ray for each core: enough to keep it busy, and few enough to stop soon."""


class _Shared(NamedTuple):
    """What every task of a run needs; stored once in the cluster."""

    run_id: str
    make: Callable[[Any], Callable[[Any], Any]]
    setup: Any
    log: str | None
    directory: str
    required_paths: tuple[str, ...]
    """Files and folders that every node must see."""


class TaskLost:
    """The result of a task that was lost with its Ray worker or its node each time it was tried.

    Args:
        reason: What Ray said the last time.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return f"its node or its Ray worker was lost each time: {self.reason}"


def check_ray() -> None:
    """Check that Ray is installed.

    Raises:
        InputError: If it is not.
    """
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise InputError("engine=ray needs Ray, here and on the nodes; pip install 'riffusion-train[ray]'")


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster for the duration of the block; an existing connection is used and stays open.

    Args:
        address: `host:port` of the cluster's head; None is the cluster of this machine or of RAY_ADDRESS.

    Raises:
        InputError: If there is no cluster.
    """
    check_ray()
    import ray

    if ray.is_initialized():
        yield
        return
    if address:
        _check_address(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "auto", log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        where = f"ray_address={address}" if address else "engine=ray"
        answer = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: no Ray cluster there ({answer}); start one with ray start --head") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray has installed its own handler
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Check within seconds that something answers at an address; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"ray_address={address}: it is host:port of the cluster's head, for example 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"ray_address={address}: nothing answers there ({error}); is the cluster running?") from None


def run_on_ray(
    make: Callable[[Any], Callable[[Any], Any]],
    setup: Any,
    tasks: Sequence[Any],
    num_workers: int | None,
    log: Path | None,
    stopped: Callable[[], bool] = lambda: False,
    folder: str | None = None,
    retries: int = _RETRIES,
) -> Generator[tuple[int, Any], None, None]:
    """Run the tasks on the cluster that this process is connected to; yields (index, result) as they are finished.

    The result is a `WorkerDied` for a task whose process crashed, and a `TaskLost` for one that Ray gave up. The iteration ends
    early once `stopped()` is true. Nodes that join during the run are used.

    Args:
        make: Module-level function that builds the function for the tasks from `setup`, once in each process.
        setup: Argument of `make`; it must be picklable, as must tasks and results.
        tasks: Arguments of the function that `make` builds.
        num_workers: Most tasks at a time; None is as many as the cluster has cores.
        log: File that receives what the workers print to stderr, in a folder that every node must see; None is a temporary
            file on each node, which then share nothing.
        stopped: Whether to stop; called at least five times a second.
        folder: A folder that the tasks read from, which every node must see as well.
        retries: How often a lost task is tried again.

    Raises:
        Exception: What a task raised, which ends the run.
        InputError: If a node does not see the folders, or lacks this package.
    """
    import ray

    run_id = secrets.token_hex(8)
    mark = None if log is None else log.absolute().with_name(f"seen-by-all-{run_id}")
    if mark is not None:
        mark.touch()
    do = ray.remote(num_cpus=1, max_retries=retries)(_do_task)
    required_paths = tuple(str(path) for path in (mark, folder) if path is not None)
    log_name = None if log is None else str(log.absolute())
    shared = ray.put(_Shared(run_id, make, setup, log_name, str(Path.cwd()), required_paths))
    upcoming = iter(enumerate(tasks))
    running: dict[Any, int] = {}
    try:
        while not stopped():
            free = (num_workers or _TASKS_PER_CORE * _cores()) - len(running)
            for index, task in itertools.islice(upcoming, max(0, free)):
                running[do.remote(shared, task)] = index
            if not running:
                return
            for ref in ray.wait(list(running), timeout=_POLL_S)[0]:
                index = running.pop(ref)
                result, fault = _answer(ref)
                if fault is not None:
                    raise fault
                yield index, result
    finally:
        for ref in running:
            ray.cancel(ref, force=True)
        if mark is not None:
            mark.unlink(missing_ok=True)


def _cores() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _answer(ref: Any) -> tuple[Any, Exception | None]:
    import ray
    from ray import exceptions

    try:
        return ray.get(ref)
    except (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError) as error:
        return TaskLost(" ".join(str(error).split())[:200]), None
    except exceptions.RayError as error:
        if "No module named 'data_prep'" in str(error):
            message = "engine=ray: a node cannot import data_prep; install the same riffusion-train on each node"
            return None, InputError(message)
        raise


def _do_task(shared: _Shared, task: Any) -> tuple[Any, Exception | None]:
    """Run on a node: do one task in the child process that this Ray worker keeps for the run."""
    try:
        if shared.run_id not in _children:
            while _children:
                _children.popitem()[1].stop()
            _children[shared.run_id] = _start_child(shared)
        return _children[shared.run_id](task), None
    except Exception as error:  # returned, since Ray would wrap what is raised
        return None, error


_children: dict[str, SoleWorker] = {}
"""The child process by the id of its run; at most one."""


def _start_child(shared: _Shared) -> SoleWorker:
    for path in shared.required_paths:
        if not Path(path).exists():
            node = socket.gethostname()
            raise InputError(
                f"engine=ray: the node {node} does not see {path}; all nodes share audio= and out=, unless these are URLs"
            )
    with contextlib.suppress(OSError):
        os.chdir(shared.directory)
    # A spawned process would load its parent's script, which here is Ray's own and takes seconds.
    vars(sys.modules["__main__"]).pop("__file__", None)
    log = Path(tempfile.gettempdir(), "riffusion-prepare.log") if shared.log is None else Path(shared.log)
    return SoleWorker(shared.make, shared.setup, log)
