"""How long commands take before they do what was asked for, beside `python -c "import torch"`.

Each command runs in its own process, in alternation with the reference; CPU seconds, so that a busy machine changes little.
"""

import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Goal, Row
from benchmarks.train import write_images
from riffusion_train.runtime.errors import InputError

_REPEATS = 3
_STEPS = 2
_CLIPS = 3
_MODEL = ["model=tiny", "seed=0"]


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Measure everything with the model of the preset `tiny`, trained for one step.

    Args:
        quick: One repeat, to show that it runs.
        max_clips: Repeats.
    """
    repeats = 1 if quick else max_clips or _REPEATS
    with tempfile.TemporaryDirectory(prefix="riffusion-") as name:
        work = Path(name)
        dataset = write_images(work / "data", 8, "tiny")
        train = ["train", f"dataset={dataset}", *_MODEL, "max_train_steps=1", "tracker=files", "preview.every_steps=0"]
        train += ["train_batch_size=1", "dataloader_num_workers=0", "num_threads=1"]
        _run([*train, f"run={work / 'run'}"])
        model = work / "model"
        _run(["export", f"run={work / 'run'}", f"out={model}"])
        sample = ["sample", str(model), "--prompt", "piano", f"num_inference_steps={_STEPS}", "num_threads=1"]
        sample.append("batch_size=1")
        several = [*sample, f"num_variations={_CLIPS}"]
        kinds: dict[str, list[float]] = {}
        for repeat in range(repeats):
            out = work / f"repeat-{repeat}"
            commands = {
                "torch": None,
                "help": ["--help"],
                "sample": [*sample, f"out={out / 'one'}"],
                "several": [*several, f"out={out / 'several'}"],
                "play": ["play", str(model), "port=0", f"num_inference_steps={_STEPS}", "num_threads=1"],
                "export": ["export", f"run={work / 'run'}", f"out={out / 'model'}"],
                "train": [*train, f"run={out / 'run'}"],
            }
            for kind, words in commands.items():
                kinds.setdefault(kind, []).append(_run(words, "playing:" if kind == "play" else ""))
    return _rows(kinds)


def _rows(seconds: dict[str, list[float]]) -> list[Row]:
    torch = seconds["torch"]
    # A further clip costs the sampling alone, so that what is left of the first one is the start.
    clip = [(more - one) / (_CLIPS - 1) for more, one in zip(seconds["several"], seconds["sample"], strict=True)]
    start = [one - sampling for one, sampling in zip(seconds["sample"], clip, strict=True)]
    limit = (Goal.ratio_at_most, 1.8, True)
    return [
        Row("riffusion --help, against import torch", "CPU s", seconds["help"], torch, median=True),
        Row("sample to the first clip, without the sampling itself", "CPU s", start, torch, *limit),
        Row("the sampling of one clip in 2 steps", "CPU s", clip, median=True),
        Row("play until it serves, its two clips to warm up included", "CPU s", seconds["play"], torch, median=True),
        Row("export of a run, its writing included", "CPU s", seconds["export"], torch, median=True),
        Row("train for one step, its files included", "CPU s", seconds["train"], torch, median=True),
    ]


def _run(words: Sequence[str] | None, until: str = "") -> float:
    """Return the CPU seconds of `riffusion WORDS`, or of importing torch, and of the processes that it started.

    Raises:
        InputError: If it fails.
    """
    command = ["-c", "import torch"] if words is None else ["-m", "riffusion_train", *words]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if until and line.startswith(until):
                process.terminate()
    if process.returncode not in (0, -signal.SIGTERM):
        raise InputError(f"{' '.join(command)}: ended with exit code {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
