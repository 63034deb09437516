"""`python -m benchmarks.gpu.train_laptop [--quick] [minutes=10] [clips=8000] [out=DIR]`: music, dataset and model in one go.

Composes a corpus, prepares it, goes on with the training of the model `laptop` (UNet and text encoder) for the minutes that are
left, and exports what it became. Every stage is a command of the project in a process of its own, whose output is shown as it
comes. `train_laptop.json` is written after each stage, and the model is in DIR/model. `--quick` makes 24 clips and trains
for two steps on any device.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.command import RESULTS, arguments_of, exit_code, parse_arguments
from benchmarks.gpu.train_sd15 import minutes_of
from benchmarks.report import Row, table, write_results
from riffusion_train.runtime.errors import InputError

NAME = "train_laptop"
_SHARE_OF_STEPS = 0.9
"""Of the time that is left after preparation, what the steps get; the rest is for loading, saving and exporting."""
_TRIAL_STEPS = 40
_BATCH_SIZE = 256


class Stages:
    """Runs commands one after the other until a moment, and keeps what they took.

    Args:
        path: The results file, written after each stage.
        command: The command that was called, for the record.
        end: When everything is to be done, by `time.monotonic`.
    """

    def __init__(self, path: Path, command: str, end: float) -> None:
        self.rows: list[Row] = []
        self._path, self._command, self._end = path, command, end

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def run(self, *arguments: str) -> float:
        """Run `python -m ARGUMENTS`; return the seconds it took.

        Raises:
            InputError: If it ends with another exit code than 0.
        """
        print(f"\n$ python -m {' '.join(arguments)}   ({self.left_s:.0f} s are left)", flush=True)
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", *arguments], check=False)
        if done.returncode:
            raise InputError(f"{arguments[0]} ended with the exit code {done.returncode}")
        return time.monotonic() - start

    def add(self, *rows: Row) -> None:
        """Add rows, and write all so far."""
        self.rows += rows
        print(table(rows), flush=True)
        write_results(self._path, self._command, self.rows)


def run(stages: Stages, out: Path, clips: int, *, quick: bool = False) -> None:
    """Compose, prepare, train and export.

    Args:
        stages: Runs the commands.
        out: Where the model goes, and the metrics of its training.
        clips: Number of clips of the corpus.
        quick: Two steps of two slices, to show that it runs.
    """
    workers = str(max(1, len(os.sched_getaffinity(0)) - 1))
    with tempfile.TemporaryDirectory() as scratch:
        corpus, dataset, trial, trained = (str(Path(scratch) / name) for name in ("corpus", "dataset", "trial", "run"))
        words = ["data_prep.corpus", "kind=music", "exclude_styles=chiptune", "seed=2", f"clips={clips}"]
        seconds = stages.run(*words, f"out={corpus}", f"num_workers={workers}")
        stages.add(Row("corpus", "clips/s", [clips / seconds]))
        words = ["riffusion_train", "prepare", f"audio={corpus}", f"out={dataset}", "spectrogram=laptop", "page=false"]
        seconds = stages.run(*words, f"num_workers={workers}", "validation_ratio=0.02")
        stages.add(Row("dataset", "slices/s", [clips / seconds]))

        on_gpu = torch.cuda.is_available()
        size = 2 if quick else _BATCH_SIZE
        train = [
            "riffusion_train", "train", "experiment=laptop_base", "model=laptop", f"dataset={dataset}", "tracker=files",
            f"train_batch_size={size}", "optimizer.lr=2e-4", "cache_text_embeddings=false", "checkpoints_total_limit=1",
            *(["mixed_precision=bf16", "compile_regions=true", "cache_on_device=true"] if on_gpu else ["num_threads=1"]),
            f"dataloader_num_workers={0 if quick else min(int(workers), 8)}", f"logging_steps={1 if quick else 10}",
        ]  # fmt: skip
        steps = 1 if quick else _TRIAL_STEPS
        stages.run(*train, f"run={trial}", f"max_train_steps={steps}", f"checkpointing_steps={steps}")
        rate = _lines(Path(trial), "images_per_s")[-1]
        steps = 2 if quick else max(20, int(_SHARE_OF_STEPS * stages.left_s * rate / size))
        words = [f"run={trained}", f"max_train_steps={steps}", f"checkpointing_steps={steps}"]
        stages.run(*train, *words, f"validation.every_steps={max(1, steps // 8)}")
        _keep(Path(trained) / "metrics.jsonl", out)
        losses = _lines(Path(trained), "validation_loss")
        rates = _lines(Path(trained), "images_per_s")
        stages.add(
            Row("training of laptop: speed", "images/s", rates, median=True),
            Row("training of laptop: waiting for data", "%", _lines(Path(trained), "data_wait_percent"), median=True),
            Row("training of laptop: images", "in all", [steps * size]),
            Row("validation loss after the training, against after an eighth of it", "", losses[-1:], losses[:1]),
        )
        words = ["riffusion_train", "export", f"run={trained}", f"out={out / 'model'}", "dtype=fp16"]
        stages.add(Row("export", "s", [stages.run(*words)]))


def _lines(run: Path, key: str) -> list[float]:
    """Return a figure of each line of a run's metrics that has it."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line[key] for line in lines if line.get(key) is not None]


def _keep(path: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, out / path.name)


def main(argv: Sequence[str] | None = None) -> int:
    """Do it. Returns the exit code: 0 done, 2 invalid input."""

    def work() -> None:
        usage = "--quick, minutes=N, clips=N or out=DIR"
        given = parse_arguments(arguments_of(argv), usage, flags=("--quick",), keys=("minutes", "clips", "out"))
        quick = "--quick" in given.flags
        if quick and "out" not in given.values:
            raise InputError("--quick gives no result worth keeping; name a folder with out=DIR")
        clips = given.values.get("clips", "24" if quick else "8000")
        if not (clips.isdecimal() and int(clips) >= 24):
            raise InputError(f"clips={clips}: give a whole number of at least 24")
        out = Path(given.values.get("out", RESULTS))
        end = time.monotonic() + 60 * minutes_of(given.values, 10.0)
        command = " ".join([f"python -m benchmarks.gpu.{NAME}", *arguments_of(argv)])
        run(Stages(out / f"{NAME}.json", command, end), out, int(clips), quick=quick)

    return exit_code(NAME, work)


if __name__ == "__main__":
    sys.exit(main())
