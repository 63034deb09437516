"""The memory of `riffusion prepare` does not grow with the number of tracks, except for their names and results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.memory import write_tiny_files

ROOT = Path(__file__).parents[2]
FEW, MANY, PROMISED = 500, 5000, 20_000


def prepare_tiny(folder: Path, count: int) -> dict[str, float]:
    audio = write_tiny_files(folder / f"{count}", count)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "support.memory", str(audio), str(folder / f"out-{count}")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["tracks"] == count
    return figures


@pytest.mark.slow
def test_a_track_costs_a_few_kilobytes_so_that_twenty_thousand_fit_into_half_a_gigabyte(tmp_path: Path) -> None:
    few, many = (prepare_tiny(tmp_path, count) for count in (FEW, MANY))
    assert many["worker_mb"] - few["worker_mb"] < 4, (few, many)
    grown_mb = (many["parent_mb"] - few["parent_mb"]) / (MANY - FEW)
    assert 1024 * grown_mb < 12, (few, many)
    assert few["parent_mb"] + (PROMISED - FEW) * grown_mb < 500, (few, many)
