"""The base model fine-tuned on music that it has never heard: `python -m benchmarks.finetune [work=DIR] [clips=N] [out=DIR]`.

The music is that of the package immich-memories-music (MIT licence): 28 produced tracks, 14 minutes, split by track.
Compared are the model `laptop`, the same after `experiment=laptop_finetune` and with the adapters of `laptop_lora`, and its
architecture with its VAE, trained from nothing for as many steps. `riffusion evaluate score` compares each with the
held-out tracks. Nothing is done twice in DIR; the times count only what this call trained.
"""

import csv
import dataclasses
import functools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.caption_tags import produced_tracks
from benchmarks.command import arguments_of, exit_code, measure, parse_arguments
from benchmarks.report import Goal, Row
from benchmarks.timing import run_in_process, run_riffusion
from riffusion_train.model.diffusers_folder import write_model
from riffusion_train.model.loading import load_components
from riffusion_train.model.weights import as_lazy_model

_BASE, _NOTHING = "laptop", "from nothing"
_CASES = {
    "fine-tuned": ["experiment=laptop_finetune", f"model={_BASE}"],
    "adapters": ["experiment=laptop_lora", f"model={_BASE}"],
    _NOTHING: ["experiment=laptop_finetune", "optimizer.lr=1e-3"],
}
"""What is trained, and how."""
_HELD_OUT = 0.3
"""Share of the tracks; agreement needs fifty held-out slices."""
_MINUTES = 10.0
_SLOW_BPM, _FAST_BPM = 90, 125
_FIGURES = {"kid": "KID", "agreement": "agreement", "tempo": "tempo within 4 %", "copies": "possible copies"}
"""Figures of `scores.json`, and their names."""


def run(work: Path, *, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Prepare, train and score.

    Args:
        work: Folder of everything that is made.
        quick: Two steps and few clips, to show that it runs.
        max_clips: Clips of each model.

    Raises:
        InputError: If the music is not installed, or a command fails.
    """
    dataset = work / "dataset"
    if not (dataset / "manifest.jsonl").exists():
        audio = _write_audio(work / "audio")
        words = [
            f"audio={audio}",
            f"out={dataset}",
            "spectrogram=laptop",
            "captions=table",
            f"table={audio}/captions.csv",
        ]
        run_riffusion(["prepare", *words, f"validation_ratio={_HELD_OUT}", "num_workers=1"])
    models, minutes = {_BASE: _BASE}, {}
    for name, words in _CASES.items():
        folder = work / name.replace(" ", "-")
        model = folder / "model"
        if not model.exists():
            start = time.monotonic()
            if name == _NOTHING:
                run_in_process(functools.partial(_write_untrained, folder / "untrained"))
                words = [*words, f"model={folder / 'untrained'}"]
            steps = ["max_train_steps=2"] * quick
            run_riffusion(["train", f"dataset={dataset}", f"run={folder / 'run'}", "resume=auto", *words, *steps])
            minutes[name] = (time.monotonic() - start) / 60
            run_riffusion(["export", f"run={folder / 'run'}", f"out={model}"])
        models[name] = str(model)
    count = 16 if quick else max_clips or 64
    scores = {
        name: _score(model, dataset, work / f"scores-{name.replace(' ', '-')}", count) for name, model in models.items()
    }
    rows = [
        Row(f"{name}: training", "minutes", [value], goal=Goal.ours_at_most, limit=_MINUTES)
        for name, value in minutes.items()
    ]
    for what, label in _FIGURES.items():
        for name, figures in scores.items():
            if figures[what]["ours"] is not None:
                shuffled = figures[what]["reference"]
                rows.append(
                    Row(
                        f"{name}: {label}",
                        "1; reference: the control",
                        [figures[what]["ours"]],
                        shuffled and [shuffled],
                    )
                )
    kid = {name: [figures["kid"]["ours"]] for name, figures in scores.items()}
    rows.append(
        Row("KID after fine-tuning, against the base", "1", kid["fine-tuned"], kid[_BASE], Goal.ratio_at_most, 0.6)
    )
    from_nothing = "KID after fine-tuning, against training from nothing"
    rows.append(Row(from_nothing, "1", kid["fine-tuned"], kid[_NOTHING], Goal.ratio_at_most, 0.5))
    return rows


def _write_audio(folder: Path) -> Path:
    """Copy the tracks and write a caption for each: how fast, mood, acoustic or electronic, tempo, key."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "caption"])
        for path, bpm, key, made in produced_tracks():
            shutil.copy(path, folder)
            speed = "slow" if bpm < _SLOW_BPM else "fast" if bpm > _FAST_BPM else "mid-tempo"
            table.writerow([path.name, f"{speed} {path.stem.split('_')[0]} {made} music, {bpm:g} bpm, {key}"])
    return folder


def _write_untrained(folder: Path) -> None:
    """Write the base model with random weights in its UNet and text encoder, the same every time.

    Call it in a process of its own: one that has computed with torch's threads must not fork, as later commands do.
    """
    torch.manual_seed(0)
    base = load_components(_BASE)
    unet = type(base.unet).from_config(base.unet.config)
    text_encoder = type(base.text_encoder)(base.text_encoder.config)
    write_model(folder, as_lazy_model(dataclasses.replace(base, unet=unet, text_encoder=text_encoder)))


def _score(model: str, dataset: Path, out: Path, count: int) -> dict[str, dict[str, Any]]:
    """Return the rows of `scores.json` by their names."""
    if not (out / "scores.json").exists():
        run_riffusion(
            ["evaluate", "score", model, f"real={dataset}", f"out={out}", f"num_clips={count}", "num_threads=1"]
        )
    rows = json.loads((out / "scores.json").read_text())["rows"]
    return {row["what"]: row for row in rows}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit code: 0 done, 2 invalid input."""
    given = arguments_of(argv)

    def work() -> None:
        usage = "work=DIR, clips=N, --quick or out=DIR"
        arguments = parse_arguments(given, usage, flags=("--quick",), keys=("work", "clips", "out"))
        with tempfile.TemporaryDirectory(prefix="riffusion-") as temporary:
            folder = Path(arguments.values.get("work", temporary))
            measure(
                "finetune",
                "python -m benchmarks.finetune",
                lambda quick, number: run(folder, quick=quick, max_clips=number),
                arguments,
            )

    return exit_code("benchmarks.finetune", work)


if __name__ == "__main__":
    sys.exit(main())
