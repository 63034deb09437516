"""A crew of worker processes, one task at a time each; a worker that dies costs its task only.

On Linux they are forked from a server that has imported what they need, so that a crew of any size imports it once.
`concurrent.futures` cannot say which task killed its pool; here each worker has its own pipe, so the parent knows. Workers
leave by themselves when the parent is gone, since their pipe ends.
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
_ATTEMPTS_TO_START = 2


class WorkerDied:
    """Stands for the result of a task whose process was killed or crashed."""

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
    """Do the tasks in this process, in order; yields (index, result)."""
    work = make(setup)
    for index, task in enumerate(tasks):
        yield index, work(task)


def run_in_processes(
    make: Callable[[Any], Callable[[Any], Any]],
    setup: Any,
    tasks: Sequence[Any],
    num_workers: int,
    log: Path,
    stopped: Callable[[], bool] = lambda: False,
) -> Generator[tuple[int, Any], None, None]:
    """Do the tasks in `num_workers` processes; yields (index, result) in the order they are finished.

    The result is a `WorkerDied` for a task whose process crashed. The iteration ends early once `stopped()` is true.

    Args:
        make: Module-level function that builds the work from `setup`, once in each process.
        setup: What `make` gets; it must pickle, as must tasks and results.
        tasks: The work's arguments.
        num_workers: Number of processes.
        log: File that takes what the workers and the libraries in them print to stderr.
        stopped: Asked at least five times a second.

    Raises:
        Exception: What the work raised, which ends the run.
        RuntimeError: If processes cannot be started.
    """
    crew: dict[Connection, _Worker] = {}
    upcoming = iter(enumerate(tasks))
    pending = len(tasks)
    failures = 0
    try:
        for _ in range(min(num_workers, len(tasks))):
            _join(crew, _start(make, setup, log))
        while pending and not stopped():
            for pipe in wait(list(crew), timeout=_POLL_S):
                assert isinstance(pipe, Connection)
                worker = crew[pipe]
                try:
                    index, result, fault = pipe.recv()
                except (EOFError, ConnectionError):
                    died, index = crew.pop(pipe).reap(), worker.task
                    if index is None:
                        failures += 1
                        if failures >= _ATTEMPTS_TO_START * num_workers:
                            raise RuntimeError(f"worker processes do not start: {died}; see {log}") from None
                    else:
                        pending -= 1
                        yield index, died
                    if pending:
                        _join(crew, _start(make, setup, log))
                    continue
                if fault is not None:
                    raise fault
                if index != _READY:
                    pending -= 1
                    yield index, result
                worker.give(next(upcoming, None))
    finally:
        for worker in crew.values():
            worker.stop()


class SoleWorker:
    """One worker process that is started anew after it has died, for whoever brings a crew of its own.

    Args:
        make: Module-level function that builds the work from `setup`, once in each process.
        setup: What `make` gets.
        log: File that takes what the worker prints to stderr.
    """

    def __init__(self, make: Callable[[Any], Callable[[Any], Any]], setup: Any, log: Path) -> None:
        self._make, self._setup, self._log = make, setup, log
        self._worker: _Worker | None = None

    def __call__(self, task: Any) -> Any:
        """Return the task's result; a `WorkerDied` where its process crashed.

        Raises:
            Exception: What the work raised.
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
        """End the process."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _started(self) -> "_Worker":
        died: WorkerDied | None = None
        for _ in range(_ATTEMPTS_TO_START):
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
    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.task: int | None = None

    def give(self, numbered_task: tuple[int, Any] | None) -> None:
        self.task = numbered_task[0] if numbered_task else None
        if numbered_task is not None:
            with contextlib.suppress(BrokenPipeError):  # it died meanwhile; the next wait() finds that out
                self.pipe.send(numbered_task)

    def reap(self) -> WorkerDied:
        self.process.join()
        self.pipe.close()
        return WorkerDied(self.process.exitcode)

    def stop(self) -> None:
        self.process.kill()  # what it writes is renamed into place, so nothing can be left half done
        self.reap()


def _join(crew: dict[Connection, _Worker], worker: _Worker) -> None:
    crew[worker.pipe] = worker


def _start(make: Callable[[Any], Any], setup: Any, log: Path) -> _Worker:
    context = _context()
    ours, theirs = context.Pipe()
    # The server keeps the environment that it was started in, so a worker is told of the one that there is now.
    environment = {**os.environ, **_ONE_THREAD}
    process = context.Process(target=_serve, args=(theirs, make, setup, str(log), environment), daemon=True)
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    # All of them inherit both: one thread each, and a blocked SIGINT, since Ctrl-C reaches them too but is the parent's.
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
    os.environ.clear()
    os.environ.update(environment)
    with contextlib.suppress(OSError):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)  # mpg123 writes there from C
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            work = make(setup)
            pipe.send((_READY, None, None))
            while True:
                index, task = pipe.recv()
                pipe.send((index, work(task), None))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except InputError as error:
            pipe.send((_READY, None, error))
        except OSError as error:
            pipe.send((_READY, None, OSError(error.errno, error.strerror, error.filename)))
        except Exception:
            pipe.send((_READY, None, RuntimeError("in a worker process:\n" + traceback.format_exc())))
