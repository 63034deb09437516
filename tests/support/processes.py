"""Processes forked from the test's, which need not import everything again."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from riffusion_train.cli.main import main

FORK = multiprocessing.get_context("fork")


def in_child(work: Callable[[], Any]) -> int:
    """Call a function in a forked process; return its exit code: 0, 1 for an exception, or minus the signal."""
    process = FORK.Process(target=work)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def start_command(arguments: Sequence[str], log: Path) -> Any:
    """Start `riffusion` in a forked process that prints to the file `log`; return the process."""
    return start_process(lambda: main(arguments), log, {})


def run_ranks(work: Callable[[], Any], log: Path, *, world_size: int = 2, **environment: str) -> list[str]:
    """Call a function in each rank, with the environment of a launcher; return what each printed. All must succeed."""
    port = free_port()
    ranks = []
    for rank in range(world_size):
        variables = rank_environment(rank, world_size, port) | environment
        rank_log = log.with_name(f"{log.name}-{rank}")
        ranks.append((start_process(work, rank_log, variables), rank_log))
    for process, _ in ranks:
        process.join(300)
        if process.exitcode != 0:
            for other, _ in ranks:
                other.kill()
            raise AssertionError("\n".join(rank_log.read_text()[-3000:] for _, rank_log in ranks))
    return [rank_log.read_text() for _, rank_log in ranks]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Return what a launcher sets for a rank."""
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    return {key: str(value) for key, value in (variables | {"MASTER_PORT": port}).items()} | {
        "MASTER_ADDR": "127.0.0.1"
    }


def start_process(work: Callable[[], Any], log: Path, environment: Mapping[str, str]) -> Any:
    """Call a function in a forked process that prints to the file `log`; return the process."""
    process = FORK.Process(target=_redirected, args=(work, log, environment))
    process.start()
    return process


def _redirected(work: Callable[[], Any], log: Path, environment: Mapping[str, str]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ.update(environment)
    sys.exit(work())
