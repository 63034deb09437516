"""Measurements in processes of their own, since a peak of memory belongs to a process."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def run_apart(work: Callable[[], _T]) -> _T:
    """Do the work in a forked process, which shares what is imported here; return what it returns, or raise what it raises.

    This process must not have computed on several threads before: a fork does not take them along.

    Args:
        work: A module's function with its arguments, since it must pickle.

    Raises:
        BrokenProcessPool: If the process died.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(work).result()
