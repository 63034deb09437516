"""`engine=ray`: the tasks of a run on the nodes of an existing Ray cluster.

Ray decides where a task runs, and runs it again elsewhere when a node is lost. On the node a child process of ours does the
task, as in the local engine, so that a crashing decoder costs only its file and can be distinguished from a lost node. The
slices go to `out=` and not through Ray: the nodes share a file system.
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
_CONNECT_TIMEOUT_S = 5
_RETRIES = 3
_TASKS_PER_CORE = 3
"""Tasks submitted to Ray for each core: enough to keep it busy, and few enough to stop soon."""


class _Shared(NamedTuple):
    """What every task of a run needs; stored once in the cluster."""

    run_id: str
    make: Callable[[Any], Callable[[Any], Any]]
    setup: Any
    log: str
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
    log: Path,
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
        log: File that receives what the workers print to stderr; every node must see its folder.
        stopped: Whether to stop; called at least five times a second.
        folder: A folder that the tasks read from, which every node must see as well.
        retries: How often a lost task is tried again.

    Raises:
        Exception: What a task raised, which ends the run.
        InputError: If a node does not see the folders, or lacks this package.
    """
    import ray

    run_id = secrets.token_hex(8)
    log = log.absolute()
    mark = log.with_name(f"seen-by-all-{run_id}")
    mark.touch()
    do = ray.remote(num_cpus=1, max_retries=retries)(_do_task)
    required_paths = tuple(filter(None, (str(mark), folder)))
    shared = ray.put(_Shared(run_id, make, setup, str(log), str(Path.cwd()), required_paths))
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
            raise InputError(f"engine=ray: the node {node} does not see {path}; all nodes share audio= and out=")
    with contextlib.suppress(OSError):
        os.chdir(shared.directory)
    # A spawned process would load its parent's script, which here is Ray's own and takes seconds.
    vars(sys.modules["__main__"]).pop("__file__", None)
    return SoleWorker(shared.make, shared.setup, Path(shared.log))
