"""Measurements in processes of their own, since a peak of memory belongs to a process."""

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

_T = TypeVar("_T")
_FORK = multiprocessing.get_context("fork")


def run_apart(work: Callable[[], _T]) -> _T:
    """Do the work in a forked process, which shares what is imported here; return what it returns.

    This process must not have computed on several threads before: a fork does not take them along.

    Raises:
        RuntimeError: If the work failed, with its traceback, or if the process died.
    """
    ours, theirs = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_report, args=(work, theirs))
    process.start()
    theirs.close()
    try:
        result, fault = ours.recv()
    except EOFError:
        result, fault = None, "its process died"
    process.join()
    if fault:
        raise RuntimeError(f"a measurement failed: {fault}")
    return cast("_T", result)


def _report(work: Callable[[], Any], pipe: Connection) -> None:
    try:
        pipe.send((work(), None))
    except Exception:
        pipe.send((None, traceback.format_exc()))
