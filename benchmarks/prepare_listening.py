"""What captions by listening cost: `riffusion prepare` with them, against the same command with one caption for all tracks.

The tracks are the 28 of the package immich-memories-music, of half a minute each. Times are CPU seconds of the whole command on
one thread, from starting Python to the finished dataset, with the dataset page as by default and without it. Both commands
alternate.
"""

import importlib.metadata
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import Goal, Row
from riffusion_train.runtime.errors import InputError

_REPEATS = 1
_MOST = 1.6
_KINDS = {"hifi, with its page": ("hifi", "page=true"), "hifi, without a page": ("hifi", "page=false"),
          "small, with its page": ("small", "page=true"), "small, without a page": ("small", "page=false")}  # fmt: skip


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Measure the commands.

    Args:
        quick: Two tracks and one repeat, to show that it runs.
        max_clips: At most this many tracks.
    """
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "audio"
        count = _link_tracks(audio, 2 if quick else max_clips)
        rows = []
        for what, (preset, page) in list(_KINDS.items())[: 1 if quick else None]:
            with_s, without_s = [], []
            for repeat in range(1 if quick else _REPEATS):
                for times_s, captions in ((with_s, "captions=listen"), (without_s, "default_caption=music")):
                    out = Path(folder) / f"{preset}-{page}-{repeat}-{captions}".replace("=", "-")
                    times_s.append(_cpu_s(f"audio={audio}", f"out={out}", f"spectrogram={preset}", page, captions))
            goal = Goal.ratio_at_most if page == "page=true" else None
            what = f"prepare of {count} tracks, {what}: by listening, against one caption for all"
            print(f"{what}: {with_s} against {without_s} CPU s", flush=True)
            rows.append(Row(what, "CPU s", with_s, without_s, goal, _MOST if goal else 0.0, median=True))
        return rows


def _cpu_s(*arguments: str) -> float:
    """Return the CPU seconds of one `riffusion prepare`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "riffusion_train", "prepare", *arguments, "num_workers=0"]
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "NUMBA")}
    subprocess.run(command, env=os.environ | threads, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _link_tracks(folder: Path, most: int | None) -> int:
    try:
        files = importlib.metadata.distribution("immich-memories-music").files or ()
    except importlib.metadata.PackageNotFoundError:
        raise InputError("the benchmark's music is missing: pip install 'riffusion-train[dev]'") from None
    paths = sorted(Path(str(file.locate())) for file in files if str(file).endswith(".opus"))[:most]
    folder.mkdir()
    for path in paths:
        (folder / path.name).symlink_to(path)
    return len(paths)
