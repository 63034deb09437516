"""`engine=ray`: the tasks of a run on the nodes of a Ray cluster that is there already.

Ray decides where a task runs, and runs it again elsewhere when a node is lost. On the node the work is done by a child process
of ours, as it is by the local engine, so that a crashing decoder costs its file and is told from a lost node. What is made goes
to `out=` and not through Ray: the nodes share a file system.
"""

import contextlib
import itertools
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.engine.process_pool import SoleWorker
from riffusion_train.runtime.errors import InputError

_POLL_S = 0.2
_KNOCK_S = 5
_RETRIES = 3
_TASKS_A_CORE = 3
"""Tasks handed to Ray for each core: enough that none waits for us, and few enough to stop soon."""


class _Shared(NamedTuple):
    """What every task of a run needs."""

    run: str
    make: Callable[[Any], Callable[[Any], Any]]
    setup: Any
    log: str
    directory: str
    seen_by_all: tuple[str, ...]


class TaskLost:
    """Stands for the result of a task that was lost with its Ray worker or its node, each time that it was tried."""

    def __init__(self, why: str) -> None:
        self.why = why

    def __str__(self) -> str:
        return f"its node or its Ray worker was lost each time: {self.why}"


def check_ray() -> None:
    """Refuse to look for a cluster without Ray.

    Raises:
        InputError: If it is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise InputError("engine=ray needs Ray, here and on the nodes; pip install 'riffusion-train[ray]'")


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster meanwhile; a connection that is there already is used, and left.

    Args:
        address: `host:port` of the cluster's head; None is the cluster that this machine or RAY_ADDRESS belongs to.

    Raises:
        InputError: If there is no cluster.
    """
    check_ray()
    import ray

    if ray.is_initialized():
        yield
        return
    if address:
        _knock(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "auto", log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        where = f"ray_address={address}" if address else "engine=ray"
        told = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: no Ray cluster there ({told}); start one with ray start --head") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray puts its own in place
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Find out in seconds whether anything answers at an address; Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"ray_address={address}: it is host:port of the cluster's head, for example 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"ray_address={address}: nothing answers there ({error}); is the cluster running?") from None


def run_on_ray(
    make: Callable[[Any], Callable[[Any], Any]],
    setup: Any,
    tasks: Sequence[Any],
    num_workers: int | None,
    log: Path,
    stopped: Callable[[], bool] = lambda: False,
    folder: str | None = None,
    retries: int = _RETRIES,
) -> Generator[tuple[int, Any], None, None]:
    """Do the tasks on the cluster that this process is connected to; yields (index, result) as they are finished.

    The result is a `WorkerDied` for a task whose process crashed, and a `TaskLost` for one that Ray gave up. The iteration ends
    early once `stopped()` is true. A node that joins meanwhile is used.

    Args:
        make: Module-level function that builds the work from `setup`, once in each process.
        setup: What `make` gets; it must pickle, as must tasks and results.
        tasks: The work's arguments.
        num_workers: Most tasks at a time; None is as many as the cluster has cores.
        log: File that takes what the workers print to stderr; its folder must be seen by every node.
        stopped: Asked at least five times a second.
        folder: A folder that the tasks read from, which every node must see, too.
        retries: How often a lost task is tried again.

    Raises:
        Exception: What the work raised, which ends the run.
        InputError: If a node does not see the folders, or lacks this package.
    """
    import ray

    run = secrets.token_hex(8)
    log = log.absolute()
    mark = log.with_name(f"seen-by-all-{run}")
    mark.touch()
    do = ray.remote(num_cpus=1, max_retries=retries)(_do)
    shared = ray.put(_Shared(run, make, setup, str(log), str(Path.cwd()), tuple(filter(None, (str(mark), folder)))))
    upcoming = iter(enumerate(tasks))
    running: dict[Any, int] = {}
    try:
        while not stopped():
            room = (num_workers or _TASKS_A_CORE * _cores()) - len(running)
            for index, task in itertools.islice(upcoming, max(0, room)):
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


def _do(shared: _Shared, task: Any) -> tuple[Any, Exception | None]:
    """Run on a node: do one task in the child process that this Ray worker keeps for the run."""
    try:
        if shared.run not in _children:
            while _children:
                _children.popitem()[1].stop()
            _children[shared.run] = _start_child(shared)
        return _children[shared.run](task), None
    except Exception as error:  # as a value, since Ray wraps what is raised
        return None, error


_children: dict[str, SoleWorker] = {}
"""The child by its run; at most one."""


def _start_child(shared: _Shared) -> SoleWorker:
    for path in shared.seen_by_all:
        if not Path(path).exists():
            node = socket.gethostname()
            raise InputError(f"engine=ray: the node {node} does not see {path}; all nodes share audio= and out=")
    with contextlib.suppress(OSError):
        os.chdir(shared.directory)
    # A spawned process loads its parent's script, which here is Ray's own, and that takes seconds.
    vars(sys.modules["__main__"]).pop("__file__", None)
    return SoleWorker(shared.make, shared.setup, Path(shared.log))
