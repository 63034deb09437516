"""A pool of worker processes with one task at a time each; if a worker dies, only its task is lost.

On Linux the workers are forked from a server that has imported what they need, so a pool of any size imports it once.
`concurrent.futures` cannot say which task killed its pool; here each worker has its own pipe, so the parent knows. When the
parent is gone, the pipes end and the workers exit by themselves.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from riffusion_train.runtime.errors import InputError

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_IMPORTED_ONCE = ["data_prep.tracks.track_worker", "riffusion_train.audio.codec.codec"]
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

    The result of a task whose process crashed is a `WorkerDied`. The iteration ends early once `stopped()` is true.

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
            _, result, fault = worker.pipe.recv()
        except (EOFError, ConnectionError):
            self._worker = None
            return worker.reap()
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
                pipe.send((index, do(task), None))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except InputError as error:
            pipe.send((_READY, None, error))
        except OSError as error:
            pipe.send((_READY, None, OSError(error.errno, error.strerror, error.filename)))
        except Exception:
            pipe.send((_READY, None, RuntimeError("in a worker process:\n" + traceback.format_exc())))
