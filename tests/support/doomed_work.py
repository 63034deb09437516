"""Work for worker processes that ends badly on request. Imports nothing heavy, since each process imports it."""

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable


def make_doomed_work(setup: None) -> Callable[[str], str]:
    """Return work that converts to capitals, and fails on four tasks.

    It crashes on `crash`, kills its parent on `parent`, meets a full disk on `full`, fails on `bug`.
    """

    def work(task: str) -> str:
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
