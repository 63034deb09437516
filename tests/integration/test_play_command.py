"""`riffusion play` as a command: how it begins, what it refuses, how it ends."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from support.sampling import write_nano_model

from riffusion_train.cli.main import main
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT

pytestmark = pytest.mark.real_time


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line that a wrong command is answered with."""
    assert main(["play", *arguments]) == EXIT_INPUT
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("riffusion play:")]
    assert len(lines) == 1 and "Traceback" not in error
    return lines[0]


def test_a_missing_model_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert "2 models" in refused(capsys, str(tmp_path), str(tmp_path), "port=0")
    assert str(tmp_path / "nothing") in refused(capsys, str(tmp_path / "nothing"), "port=0")
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(capsys, str(tmp_path / "empty"), "port=0")


def test_a_port_that_is_taken_is_named_before_anything_is_loaded(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port={port} on 127.0.0.1 is taken; choose another" in refused(capsys, str(tmp_path), f"port={port}")
    assert "port=70000" in refused(capsys, str(tmp_path), "port=70000")
    assert "host=no.such.host.example" in refused(capsys, str(tmp_path), "host=no.such.host.example")


def test_what_is_not_installed_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastapi" else find(name))
    assert 'pip install "riffusion-train[play]"' in refused(capsys, str(tmp_path))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("num_inference_steps=0", "num_inference_steps: must be a whole number from 1"),
        ("seed_image=drums", "seed_image: is unknown; choose from: beats"),
        ("guidance_scale=-1", "guidance_scale: must be"),
        ("prot=1", "unknown key 'prot'"),
        ("--prompt", "unknown flag --prompt"),
    ],
)
def test_a_wrong_argument_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, argument: str, message: str):
    (tmp_path / "model").mkdir()
    assert message in refused(
        capsys, str(tmp_path / "model"), *([] if argument.startswith("port") else ["port=0"]), argument
    )


def test_help_names_the_keys(capsys: pytest.CaptureFixture[str]):
    assert main(["play", "--help"]) == EXIT_DONE
    assert {"port=8000", "host=127.0.0.1"} <= set(capsys.readouterr().out.split())


def test_it_plays_and_ctrl_c_ends_it_cleanly(tmp_path: Path):
    model = write_nano_model(tmp_path / "model")
    command = [
        sys.executable,
        "-m",
        "riffusion_train",
        "play",
        str(model),
        "port=0",
        "num_threads=1",
        "prompt=a, 'b' (c)",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    watchdog = threading.Timer(400, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert address is not None
        with urllib.request.urlopen(f"{address[0]}api/choices", timeout=120) as answer:
            assert b"a, 'b' (c)" in answer.read()
        process.send_signal(signal.SIGINT)
        out, error = process.communicate()
    finally:
        watchdog.cancel()
        process.kill()
    assert (process.returncode, out.strip()) == (EXIT_DONE, "stopped")
    assert "Traceback" not in error and "rror" not in error
