"""Is distillation worth it? `python -m benchmarks.distill demo=DIR [steps=N] [out=DIR]`.

The model of a finished demo is distilled with three seeds, and sampled in 1, 2, 4 and 8 steps. It is compared with its teacher
in 20 steps; the control is the teacher in 4 steps of Euler, which costs no training. The figures are those of
`benchmarks.guidance`. The runs are kept in DIR/distilled; the same command continues.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command import arguments_of, exit_code, measure, parse_arguments
from benchmarks.guidance import UNITS, Judge, measure_choice
from benchmarks.report import Goal, Row
from benchmarks.timing import run_riffusion
from riffusion_train.model.components import Components, freeze
from riffusion_train.model.loading import load_components
from riffusion_train.runtime.errors import InputError

SEEDS = 3
GUIDANCE = 2.0
"""The strength at which the demo's model is best; it becomes part of the distilled one."""
_STEPS = 800
_TEACHER: dict[str, Any] = {
    "scheduler": "euler",
    "timesteps": "model",
    "num_inference_steps": 20,
    "guidance_scale": GUIDANCE,
}
_CONTROL = {**_TEACHER, "num_inference_steps": 4}
_STEP_COUNTS = (1, 2, 4, 8)
_TARGET_STEPS = 2
_AGREEMENT, _DISTANCE, _COST = 0.98, 0.03, 1 / 8
"""What 2 steps must reach: this share of the teacher's agreement, its distance and so much more, this share of its time."""


def run(demo: Path, *, quick: bool = False, steps: int | None = None) -> list[Row]:
    """Distil and measure.

    Args:
        demo: The folder of a finished demo.
        quick: One seed, three steps and few clips, to show that it runs.
        steps: Training steps of each distillation.

    Raises:
        InputError: If the folder is no finished demo.
    """
    for part in ("model", "dataset"):
        if not (demo / part).is_dir():
            raise InputError(f"demo={demo}: has no {part}/; give the out= of a finished riffusion demo base=none")
    torch.set_num_threads(1)
    count = 3 if quick else steps or _STEPS
    runs = [_distil(demo, seed, count) for seed in range(1 if quick else SEEDS)]
    teacher = _load(demo / "model")
    judge = Judge.open(demo / "dataset", teacher, 4 if quick else 144)
    reference = _values(teacher, judge, _TEACHER)
    rows = _rows("teacher, Euler, 20 steps", reference, reference)
    rows += _rows("control: teacher, Euler, 4 steps", _values(teacher, judge, _CONTROL), reference)
    for number in _STEP_COUNTS:
        options = {"scheduler": "lcm", "timesteps": "model", "num_inference_steps": number, "guidance_scale": 1.0}
        measured = [_values(_load(path / "final"), judge, options) for path in runs]
        values = [[seed[unit] for seed in measured] for unit in range(len(UNITS))]
        rows += _rows(f"distilled, {number} steps", values, reference, is_target=number == _TARGET_STEPS)
    return rows


def _distil(demo: Path, seed: int, steps: int) -> Path:
    run_folder = demo / "distilled" / f"{steps}-steps-seed-{seed}"
    words = ["experiment=laptop_lcm", "spectrogram_preset=null", "model=pretrained", f"model.path={demo / 'model'}"]
    words += [f"dataset={demo / 'dataset'}", f"run={run_folder}", f"max_train_steps={steps}", f"seed={seed}"]
    words += [f"method.distill_guidance=[{GUIDANCE},{GUIDANCE}]", "tracker=files", "num_threads=1", "resume=auto"]
    run_riffusion(["train", *words])
    return run_folder


def _load(path: Path) -> Components:
    model = dataclasses.replace(load_components(str(path)), sampling={})
    freeze(model)
    return model


def _values(model: Components, judge: Judge, options: dict[str, Any]) -> list[float]:
    """Return mean agreement, kernel distance and CPU seconds of a clip."""
    agreements, distance, seconds = measure_choice(model, judge, options)
    print(
        f"{options['scheduler']}, {options['num_inference_steps']} steps: {np.mean(agreements):.3f} {distance:.3f}",
        flush=True,
    )
    return [float(np.mean(agreements)), distance, seconds]


def _rows(what: str, values: Sequence[Any], reference: Sequence[float], *, is_target: bool = False) -> list[Row]:
    """Return a row for each unit; values are numbers, or lists with one for each seed."""
    goals = (Goal.ratio_at_least, Goal.ours_at_most, Goal.ratio_at_most)
    limits = (_AGREEMENT, reference[1] + _DISTANCE, _COST)
    rows = []
    for unit, value, base, goal, limit in zip(UNITS, values, reference, goals, limits, strict=True):
        ours = list(value) if isinstance(value, list) else [value]
        rows.append(Row(what, unit, ours, [base], goal if is_target else None, limit if is_target else 0.0))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit code: 0 done, 2 invalid input."""
    given = arguments_of(argv)

    def work() -> None:
        keys = ("demo", "steps", "out")
        arguments = parse_arguments(given, "demo=DIR, steps=N, --quick or out=DIR", flags=("--quick",), keys=keys)
        if "demo" not in arguments.values:
            raise InputError("demo=DIR is missing; give the out= of a finished riffusion demo base=none")
        demo = Path(arguments.values["demo"])
        measure(
            "distill",
            "python -m benchmarks.distill demo=DIR",
            lambda quick, number: run(demo, quick=quick, steps=number),
            arguments,
            number_key="steps",
        )

    return exit_code("benchmarks.distill", work)


if __name__ == "__main__":
    sys.exit(main())
