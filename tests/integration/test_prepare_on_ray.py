"""`riffusion prepare engine=ray` on Ray's local cluster of two nodes, of which one is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.corpus_files import tone, write_tones, write_track
from support.doomed_work import make_doomed_work
from support.ray_cluster import add_node, local_cluster

from data_prep.engine.workers import TaskLost, WorkerDied, connected, run_on_ray
from data_prep.pipeline import prepare
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.runtime.errors import InputError, StoppedError

pytest.importorskip("ray")
COUNT = 12


def config_for(audio, out, *arguments):
    return compose(
        "prepare", PrepareConfig, [f"audio={audio}", f"out={out}", "spectrogram=small", "page=false", *arguments]
    )


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored_tracks(out):
    return {path.name: path.stat().st_mtime_ns for path in Path(out, ".work", "tracks").glob("*.arrow")}


def wait_for_tracks(out, count):
    for _ in range(12000):
        if len(stored_tracks(out)) >= count:
            return
        time.sleep(0.01)
    raise AssertionError("no tracks were stored within 120 s")


@pytest.fixture(scope="module")
def cluster():
    """A cluster that this process is connected to: for each connection, Ray starts new processes."""
    with local_cluster() as running, connected(running.address):
        yield running


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = write_tones(tmp_path_factory.mktemp("songs"), COUNT)
    write_track(folder / "silent.wav", 0 * tone(100, 6), "nothing to hear")
    (folder / "broken.mp3").write_bytes(b"this is no sound" * 100)
    (folder / "broken.txt").write_text("broken")
    return folder


def test_without_a_cluster_or_without_ray_it_is_one_line_and_nothing_is_made(audio, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for arguments, message in (
        (["num_workers=0"], "num_workers=0 uses this process"),
        (["engine=local", "ray_address=here:6379"], "ray_address=here:6379 has no effect without engine=ray"),
    ):
        with pytest.raises(InputError, match=message):
            prepare(config_for(audio, out, "engine=ray", *arguments))
    for address, message in (("127.0.0.1:1", "nothing answers there"), ("head", "it is host:port")):
        with pytest.raises(InputError, match=f"ray_address={address}: {message}"), connected(address):
            pass
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'riffusion-train\[ray\]'"):
        prepare(config_for(audio, out, "engine=ray"))
    assert not out.exists()


def test_a_run_killed_then_stopped_then_robbed_of_a_node_ends_in_the_local_engines_bytes(
    cluster, audio, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    arguments = ["engine=ray", f"ray_address={cluster.address}"]
    command = [sys.executable, "-m", "riffusion_train", "prepare", f"audio={audio}", f"out={out}", "spectrogram=small"]
    killed = subprocess.Popen([*command, *arguments], env=os.environ | {"HF_HUB_OFFLINE": "1"})
    wait_for_tracks(out, 2)
    killed.kill()
    killed.wait()
    kept = stored_tracks(out)
    assert len(kept) < COUNT

    with monkeypatch.context() as patch:
        patch.setattr(
            "riffusion_train.runtime.progress.ProgressReport.update",
            lambda report, done, figures: os.kill(os.getpid(), signal.SIGINT) if done > len(kept) else None,
        )
        with pytest.raises(StoppedError, match=rf"of {COUNT + 2} tracks are finished; the same command continues"):
            prepare(config_for(audio, out, *arguments))
    before = len(stored_tracks(out))
    assert before < COUNT
    doomed = add_node(cluster)

    def kill_a_node():
        wait_for_tracks(out, before + 2)
        cluster.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill_a_node)
    killer.start()
    folder = prepare(config_for(audio, out, *arguments))
    killer.join()
    expected = prepare(config_for(audio, tmp_path / "local", "num_workers=0"))
    assert files_of(folder.path) == files_of(expected.path)
    assert folder.stats["totals"]["tracks"] == COUNT and folder.stats["rejected"] == {"silent": 1, "unreadable": 1}


def test_a_crash_costs_its_task_only_and_is_reported_as_by_the_local_engine(cluster, tmp_path):
    tasks = ["crash", "a", "parent"]
    results = dict(run_on_ray(make_doomed_work, None, tasks, None, tmp_path / "log", retries=0))
    assert isinstance(results[0], WorkerDied) and "SIGSEGV" in str(results[0]) and results[1] == "A"
    assert isinstance(results[2], TaskLost) and "was lost each time" in str(results[2])
    with pytest.raises(OSError, match="No space left"):
        list(run_on_ray(make_doomed_work, None, ["a", "full"], 1, tmp_path / "log"))
    with pytest.raises(RuntimeError, match="ZeroDivisionError: of ours"):
        list(run_on_ray(make_doomed_work, None, ["bug"], 1, tmp_path / "log"))
    with pytest.raises(InputError, match="does not see /nowhere/songs; all nodes share"):
        list(run_on_ray(make_doomed_work, None, ["a"], 1, tmp_path / "log", folder="/nowhere/songs"))
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
