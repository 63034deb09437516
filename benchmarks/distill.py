"""Is distillation worth it? `python -m benchmarks.distill corpus=DIR dataset=DIR lora=FILE [model=PATH] [clips=N] [out=DIR]`.

The base model with adapters of `experiment=laptop_lcm`, in 1, 2, 4 and 8 steps, beside its teacher, which is the model without
them in 20 steps, and a control that costs no training: the teacher in 4 steps of Euler with guidance 3. Three seeds each.
`corpus` and `dataset` are those of `benchmarks.base_model`, the figures those of `benchmarks.guidance`.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.base_model import JUDGE_KEYS, JUDGE_USAGE, SEEDS, Judge, open_judge
from benchmarks.command import arguments_of, exit_code, measure, parse_arguments
from benchmarks.guidance import UNITS, measure_choice
from benchmarks.report import Goal, Row
from riffusion_train.model.components import Components, freeze
from riffusion_train.model.loading import load_with_loras
from riffusion_train.runtime.errors import InputError

_TEACHER: dict[str, Any] = {"scheduler": "dpmsolver", "num_inference_steps": 20, "guidance_scale": 3.0}
_CONTROL: dict[str, Any] = {
    "scheduler": "euler",
    "timesteps": "model",
    "num_inference_steps": 4,
    "guidance_scale": 3.0,
}
_DISTILLED: dict[str, Any] = {"scheduler": "lcm", "timesteps": "model", "guidance_scale": 1.0}
_STEP_COUNTS = (1, 2, 4, 8)
_TARGET_STEPS = 2
_AGREEMENT, _DISTANCE, _COST = 0.98, 0.03, 1 / 8
"""What 2 steps must reach: this share of the teacher's agreement, its distance and so much more, this share of its time."""


def run(teacher: Components, distilled: Components, judge: Judge) -> list[Row]:
    """Measure.

    Args:
        teacher: The model, frozen.
        distilled: The same with its adapters, frozen.
        judge: What both are compared with; has the prompts.
    """
    plain = dataclasses.replace(teacher, sampling={})
    reference = _values("teacher", plain, judge, _TEACHER)
    rows = _rows("teacher, DPM-Solver++, 20 steps, guidance 3", reference, reference)
    rows += _rows("as the model recommends", _values("recommended", teacher, judge, {}), reference)
    rows += _rows("control: Euler, 4 steps, guidance 3", _values("control", plain, judge, _CONTROL), reference)
    for number in _STEP_COUNTS:
        options = {**_DISTILLED, "num_inference_steps": number}
        values = _values(f"distilled, {number}", distilled, judge, options)
        rows += _rows(f"distilled, {number} steps", values, reference, is_target=number == _TARGET_STEPS)
    return rows


def _values(name: str, model: Components, judge: Judge, options: dict[str, Any]) -> list[list[float]]:
    """Return mean agreement, KID and CPU seconds of a clip, of each sampling seed."""
    measured = [measure_choice(model, judge, options, seed) for seed in range(SEEDS)]
    values = [[float(np.mean(seed[unit])) for seed in measured] for unit in range(len(UNITS))]
    print(f"{name}: " + " ".join(f"{np.mean(value):.3f}" for value in values), flush=True)
    return values


def _rows(
    what: str, values: Sequence[list[float]], reference: Sequence[list[float]], *, is_target: bool = False
) -> list[Row]:
    """Return a row for each unit."""
    goals = (Goal.ratio_at_least, Goal.ours_at_most, Goal.ratio_at_most)
    limits = (_AGREEMENT, float(np.mean(reference[1])) + _DISTANCE, _COST)
    rows = []
    for unit, ours, base, goal, limit in zip(UNITS, values, reference, goals, limits, strict=True):
        rows.append(Row(what, unit, ours, base, goal if is_target else None, limit if is_target else 0.0))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit code: 0 done, 2 invalid input."""
    given = arguments_of(argv)

    def work() -> None:
        arguments = parse_arguments(given, f"{JUDGE_USAGE}, lora=FILE", keys=(*JUDGE_KEYS, "lora"))
        if "lora" not in arguments.values:
            raise InputError("lora=FILE is missing; export a run of experiment=laptop_lcm with format=lora")

        def measured(_quick: bool, number: int | None) -> list[Row]:
            distilled = load_with_loras(arguments.values.get("model", "laptop"), [arguments.values["lora"]])
            freeze(distilled)
            teacher, judge = open_judge(arguments.values, number)
            return run(teacher, distilled, judge)

        measure("distill", "python -m benchmarks.distill corpus=DIR dataset=DIR lora=FILE", measured, arguments)

    return exit_code("benchmarks.distill", work)


if __name__ == "__main__":
    sys.exit(main())
