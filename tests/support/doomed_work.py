"""Work for worker processes that ends badly on request. Imports little, since each process imports it."""

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable

from riffusion_train.runtime.progress import report_share


def make_doomed_work(setup: None) -> Callable[[str], str]:
    """Return work that converts to capitals, and fails on four tasks.

    On `long` it first reports a half. It crashes on `crash`, kills its parent on `parent`, meets a full disk on `full`, and
    fails on `bug`.
    """

    def work(task: str) -> str:
        if task == "long":
            report_share(0.5)
        if task == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if task == "parent":
            os.kill(multiprocessing.parent_process().pid, signal.SIGKILL)
        if task == "full":
            raise OSError(errno.ENOSPC, "No space left on device", "/there")
        if task == "bug":
            raise ZeroDivisionError("of ours")
        return task.upper()

    return work


def make_reader(setup: None) -> Callable[[str], str | None]:
    """Return work that reads a variable of the environment."""
    return os.environ.get


def make_nothing(setup: None) -> Callable[[str], str]:
    """Crash before any work."""
    os._exit(7)
