import errno

import pytest
from support.doomed_work import make_doomed_work, make_nothing, make_reader

from data_prep.engine.workers import ShareDone, SoleWorker, WorkerDied, run_in_processes


def test_a_worker_that_crashes_costs_its_task_only(tmp_path):
    tasks = ["a", "crash", "b", "c", "crash", "d"]
    results = dict(run_in_processes(make_doomed_work, None, tasks, 2, tmp_path / "log"))
    assert [results[index] for index in (0, 2, 3, 5)] == ["A", "B", "C", "D"]
    assert all(isinstance(results[index], WorkerDied) and "SIGSEGV" in str(results[index]) for index in (1, 4))


def test_a_long_task_reports_how_far_it_is_before_its_result(tmp_path):
    answers = list(run_in_processes(make_doomed_work, None, ["a", "long"], 1, tmp_path / "log"))
    assert answers == [(0, "A"), (1, ShareDone(0.5)), (1, "LONG")]
    worker = SoleWorker(make_doomed_work, None, tmp_path / "log")
    assert worker("long") == "LONG"
    worker.stop()


def test_workers_see_the_environment_of_later_runs(tmp_path, monkeypatch):
    for value in ("before", "after"):
        monkeypatch.setenv("SOME_KEY", value)
        assert dict(run_in_processes(make_reader, None, ["SOME_KEY"], 1, tmp_path / "log")) == {0: value}
    monkeypatch.delenv("SOME_KEY")
    tasks = ["SOME_KEY", "OMP_NUM_THREADS"]
    assert dict(run_in_processes(make_reader, None, tasks, 1, tmp_path / "log")) == {0: None, 1: "1"}


def test_a_full_disk_in_a_worker_passes_up_whole(tmp_path):
    with pytest.raises(OSError) as caught:
        list(run_in_processes(make_doomed_work, None, ["full"], 1, tmp_path / "log"))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/there")


def test_a_fault_of_ours_in_a_worker_ends_the_run_with_its_traceback(tmp_path):
    with pytest.raises(RuntimeError, match="ZeroDivisionError: of ours"):
        list(run_in_processes(make_doomed_work, None, ["a", "bug"], 1, tmp_path / "log"))


def test_processes_that_cannot_start_are_not_started_for_ever(tmp_path):
    with pytest.raises(RuntimeError, match="do not start: its process ended with exit code 7"):
        list(run_in_processes(make_nothing, None, ["a"], 1, tmp_path / "log"))
