"""Ranks that go silent, leave, or lose their launcher, over a store in this process."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch.distributed as dist

from riffusion_train.runtime.progress import StopRequest
from riffusion_train.training.rank_watch import RankWatch

TIMEOUT_S = 0.5


@pytest.fixture
def watch() -> Any:
    """Return a function that starts the watch of a rank and gives the lines it ends with; all are stopped at the end."""
    store, watches = dist.HashStore(), []

    def start(rank: int, world_size: int, **options: Any) -> tuple[RankWatch, list[str]]:
        lines: list[str] = []
        places = [f"process {rank} on a machine" for rank in range(world_size)]
        one = RankWatch(store, rank, world_size, TIMEOUT_S, places=places, end=lines.append, **options)
        one.start()
        watches.append(one)
        return one, lines

    yield start
    for one in watches:
        one.stop()


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_rank_that_was_never_heard_is_named(watch: Any) -> None:
    _, lines = watch(0, 2)
    wait_for(lambda: lines)
    assert lines[0].startswith(
        "rank 1 (process 1 on a machine) has not answered for 0.5 s (rank_timeout_s); the newest checkpoint stands"
    )


def test_ranks_that_answer_and_one_that_left_are_not_silent_and_one_that_falls_silent_is(
    watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = [watch(rank, 3) for rank in range(3)]
    ranks[2][0].stop()
    time.sleep(3 * TIMEOUT_S)
    assert [lines for _, lines in ranks] == [[], [], []]
    ranks[1][0]._store = None  # its thread ends, as that of a stopped process would
    monkeypatch.setattr("threading.excepthook", lambda arguments: None)
    wait_for(lambda: ranks[0][1])
    assert ranks[0][1][0].startswith("rank 1 (process 1 on a machine) has not")


def test_a_rank_whose_launcher_is_gone_is_asked_to_stop(
    watch: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with StopRequest() as stop:
        watch(0, 2, launched=True)
        watch(1, 2)
        assert not stop.asked
        monkeypatch.setattr("os.getppid", lambda: 1)
        wait_for(lambda: stop.asked)
    assert "rank 0: the launcher is gone; stopping" in capfd.readouterr().err
