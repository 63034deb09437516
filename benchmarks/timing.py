"""How the benchmarks measure: in alternation, so that a ratio compares neighbours in time, or in a process of its own."""

import functools
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from riffusion_train.runtime.errors import InputError

_T = TypeVar("_T")


def timed(work: Callable[[], _T]) -> tuple[_T, float]:
    """Call a function; return its result and the CPU seconds it took."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def alternate(
    methods: Mapping[str, Callable[[int], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Run the methods alternately and return the seconds of each repeat by method.

    Args:
        methods: Functions by name; each is called with the number of the repeat.
        repeats: Number of calls of each.
        clock: Counts seconds: CPU time of this process, or wall time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(repeats):
        for name, method in methods.items():
            start = clock()
            method(repeat)
            seconds[name].append(clock() - start)
    return seconds


def run_in_process(work: Callable[[], _T]) -> _T:
    """Call a function in a forked process, for a peak of memory of its own; return its result or raise its exception.

    The fork shares what is already imported. This process must not have computed with several threads before, because a fork
    does not copy them.

    Args:
        work: A module-level function or a partial of one, so that it can be pickled.

    Raises:
        BrokenProcessPool: If the process died.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(work).result()


def run_riffusion(arguments: list[str]) -> None:
    """Run `riffusion ARGUMENTS` in a forked process.

    Raises:
        InputError: If it ends with another exit code than 0.
        BrokenProcessPool: If the process died.
    """
    code = run_in_process(functools.partial(_run_command, arguments))
    if code:
        raise InputError(f"riffusion {arguments[0]} ended with the exit code {code}; the same command continues")


def _run_command(arguments: list[str]) -> int:
    from riffusion_train.cli.main import main

    return main(arguments)
