"""Signs of life of the processes (ranks) that train together: a silent one ends the run, which would else wait for ever."""

import contextlib
import datetime
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist

from riffusion_train.runtime.errors import EXIT_FAULT

_LEFT = 1 << 40
"""Added to the count of a rank that has ended as it should."""


class RankWatch:
    """Ends this process when another rank has given no sign of life for too long; asks it to stop when its launcher is gone.

    A thread of every rank counts up in the launch's key-value store, so that a long preview or a slow disk is no silence. A
    second thread adds up for how long each count has stood still. It counts the time that it ran itself, so that ranks that
    were all suspended do not take each other for silent; and it does not use the store, which is silent too when its host is.

    Args:
        store: The launch's store, through a connection of its own.
        rank: Number of this process.
        world_size: Number of ranks.
        timeout_s: The longest silence.
        places: For every rank, where it runs, in words: what an error names.
        launched: Whether the parent process is a launcher, which outlives its ranks.
        end: Called with a line of text to end the process; None prints it and exits with code 1, whatever other threads do.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        world_size: int,
        timeout_s: float,
        *,
        places: Sequence[str] = (),
        launched: bool = False,
        end: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._rank = rank
        self._others = [other for other in range(world_size) if other != rank]
        self._timeout_s = timeout_s
        self._interval_s = min(timeout_s / 10, 5.0)
        self._launcher = os.getppid() if launched else None
        self._asked_to_stop = False
        self._end = end or _end_process
        self._counts: dict[int, int] = dict.fromkeys(self._others, 0)
        self._places = places
        self._silent_s: dict[int, float] = dict.fromkeys(self._others, 0.0)
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._report, self._listen)]

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Tell the others that this rank has ended as it should, and watch no more."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(1.0)

    def _report(self) -> None:
        """Count up, and read the counts of the others."""
        while not self._stopped.wait(self._interval_s):
            if self._launcher_gone():  # and the store, which it hosts
                continue
            with contextlib.suppress(RuntimeError):  # the store's host has gone: the counts stand still
                self._store.add(f"alive-{self._rank}", 1)
                for other in self._others:
                    self._counts[other] = int(self._store.add(f"alive-{other}", 0))
        with contextlib.suppress(RuntimeError):
            self._store.add(f"alive-{self._rank}", _LEFT)

    def _listen(self) -> None:
        """Add up how long every count has stood still."""
        seen, last = dict(self._counts), time.monotonic()
        while not self._stopped.wait(self._interval_s):
            now = time.monotonic()
            ran_s, last = min(now - last, 2 * self._interval_s), now
            for other, count in self._counts.items():
                silent = count == seen[other] and count < _LEFT
                self._silent_s[other] = self._silent_s[other] + ran_s if silent else 0.0
                seen[other] = count
            self._require_launcher()
            self._require_sound()

    def _launcher_gone(self) -> bool:
        return self._launcher is not None and os.getppid() != self._launcher

    def _require_launcher(self) -> None:
        if self._asked_to_stop or not self._launcher_gone():
            return
        self._asked_to_stop = True
        _print_line(f"rank {self._rank}: the launcher is gone; stopping")
        os.kill(os.getpid(), signal.SIGTERM)  # what a launcher would have sent

    def _require_sound(self) -> None:
        silent = [other for other in self._others if self._silent_s[other] > self._timeout_s]
        if not silent:
            return
        answering = [other for other in self._others if other not in silent]
        if answering and min(answering) < self._rank:  # which says it
            self._stopped.wait(2 * self._interval_s)
            self._end("")
            return
        names = ", ".join(f"{other} ({self._places[other]})" if self._places else str(other) for other in silent)
        self._end(
            f"rank {names} has not answered for {self._timeout_s:g} s (rank_timeout_s); the newest checkpoint stands, and the "
            "same command with resume=auto continues"
        )


def _end_process(line: str) -> None:
    """Print a line and exit, although another thread waits for ranks that will not come."""
    if line:
        _print_line(line)
    os._exit(EXIT_FAULT)


def _print_line(line: str) -> None:
    with contextlib.suppress(OSError):  # whoever read it may be gone
        print(f"riffusion train: {line}", file=sys.stderr, flush=True)


def _exchange_places(store: Any, rank: int, world_size: int) -> list[str]:
    """Return where every rank runs, once all have said it; none where one does not in time, which the watch will say."""
    with contextlib.suppress(RuntimeError):
        store.set(f"place-{rank}", f"process {os.getpid()} on {socket.gethostname()}")
        return [store.get(f"place-{other}").decode() for other in range(world_size)]
    return []


def watch_ranks(rank: int, world_size: int, timeout_s: float) -> RankWatch | None:
    """Start to watch the other ranks; return None where there are none, or they were not joined by an address."""
    if world_size == 1 or "MASTER_ADDR" not in os.environ:
        return None
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=datetime.timedelta(seconds=max(timeout_s, 1.0)),
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefixed = dist.PrefixStore(f"riffusion-{attempt}", store)  # type: ignore[attr-defined]
    watch = RankWatch(
        prefixed,
        rank,
        world_size,
        timeout_s,
        places=_exchange_places(prefixed, rank, world_size),
        launched="TORCHELASTIC_RUN_ID" in os.environ,
    )
    watch.start()
    return watch
