"""The memory of `riffusion prepare` grows neither with the length of a track nor with their number, except for their names."""

import json
import os
import subprocess
import sys
from pathlib import Path

from support.memory import write_tiny_files

ROOT = Path(__file__).parents[2]
FEW, MANY, PROMISED = 200, 1200, 20_000


def measured(*arguments: str) -> list[dict[str, float]]:
    """Return the figures of each line that `support.memory` prints; those of the last runs are the last lines."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "support.memory", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_a_track_costs_a_few_kilobytes_so_that_twenty_thousand_fit_into_half_a_gigabyte(tmp_path: Path) -> None:
    folders = [
        (str(write_tiny_files(tmp_path / f"{count}", count)), str(tmp_path / f"out-{count}")) for count in (FEW, MANY)
    ]
    few, many = measured(*folders[0], *folders[1])
    assert (few["tracks"], many["tracks"]) == (FEW, MANY)
    assert many["worker_mb"] - few["worker_mb"] < 3, (few, many)
    grown_mb = (many["parent_mb"] - few["parent_mb"]) / (MANY - FEW)
    assert 1024 * grown_mb < 12, (few, many)
    assert few["parent_mb"] + (PROMISED - FEW) * grown_mb < 500, (few, many)


def test_a_track_of_seven_minutes_takes_little_more_memory_than_one_of_one(tmp_path: Path) -> None:
    """Its samples alone are 148 MB, too many to be kept in memory: 104 MB more than one minute; kept, they took 244 MB more."""
    short, long = measured("track", "60,420", str(tmp_path), "4")
    assert long["duration_s"] == 420
    assert long["peak_mb"] - short["peak_mb"] < 170, (short, long)
    assert long["peak_mb"] < 700, (short, long)
