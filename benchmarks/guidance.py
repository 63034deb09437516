"""Solvers, steps and guidance on the base model: `python -m benchmarks.guidance corpus=DIR dataset=DIR [guide=PATH] [clips=N]`.

`corpus` and `dataset` are those of `benchmarks.base_model`. For every choice, one sampling seed: how often the classifier hears
in the image what the prompt asks for (mean of five attributes), KID to the corpus, and the CPU seconds of a clip and its sound,
on one thread. All are compared with the usual choice for models that recommend nothing.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.base_model import JUDGE_KEYS, JUDGE_USAGE, UNET_BATCH, Judge, open_judge
from benchmarks.command import arguments_of, exit_code, measure, parse_arguments
from benchmarks.report import Row
from benchmarks.timing import timed
from riffusion_train.model.components import Components
from riffusion_train.sampling.sampler import Sampler
from riffusion_train.training.run_model import load_guide

UNITS = ("agreement", "KID", "CPU s a clip")
"""Of what `measure_choice` returns."""
USUAL: dict[str, Any] = {
    "scheduler": "dpmsolver",
    "timesteps": "karras",
    "num_inference_steps": 20,
    "guidance_scale": 7.0,
    "guidance_interval": (0, 1000),
}
"""What all rows are compared with: the usual choice of models that recommend nothing."""
NOISY_PART = (300, 1000)
_EULER: dict[str, Any] = {"scheduler": "euler", "timesteps": "model"}


def choices(guide: Components | None) -> list[dict[str, Any]]:
    """Return the choices that are measured: options of the sampler in which each differs from the usual one."""
    few = [
        {"scheduler": solver, "timesteps": place, "num_inference_steps": steps, "guidance_scale": 3}
        for steps in (10, 4)
        for solver, place in (
            ("euler", "model"),
            ("dpmsolver", "karras"),
            ("dpmsolver", "trailing"),
            ("dpmsolver", "ays"),
            ("dpmsolver_sde", "karras"),
        )
    ]
    strengths: list[dict[str, Any]] = [{"guidance_scale": scale} for scale in (1, 2, 3, 5)]
    kinds: list[dict[str, Any]] = [
        {"guidance_scale": 3, "guidance_interval": NOISY_PART},
        {"guidance_scale": 5, "guidance_interval": NOISY_PART},
        {"guidance_scale": 5, "guidance_interval": (0, 800)},
        {"guidance_scale": 5, "guidance": "apg"},
        {"guidance_scale": 5, "guidance_rescale": 0.7},
    ]
    if guide is not None:
        kinds += [{"guidance_scale": scale, "guide": guide} for scale in (1.5, 2)]
    ten = {"num_inference_steps": 10}
    return [
        {},
        *strengths,
        *few,
        *(ten | kind for kind in kinds),
        _EULER | {"num_inference_steps": 4, "guidance_scale": 2},
    ]


def run(model: Components, judge: Judge, guide: Components | None) -> list[Row]:
    """Measure all choices.

    Args:
        model: The model, frozen.
        judge: What it is compared with; has the prompts.
        guide: A weaker model, for autoguidance.
    """
    rows: list[Row] = []
    usual: list[Sequence[float]] = []
    for choice in choices(guide):
        values: list[Sequence[float]] = [*measure_choice(model, judge, USUAL | choice)]
        usual = usual or values
        for unit, ours, reference in zip(UNITS, values, usual, strict=True):
            rows.append(Row(describe_choice(choice), unit, ours, reference))
        agreements, (distance,), (cpu_s,) = values
        each = " ".join(f"{value:.2f}" for value in agreements)
        print(
            f"{describe_choice(choice):<52} {np.mean(agreements):.3f} ({each}) {distance:.3f} {cpu_s:.2f}", flush=True
        )
    return rows


def measure_choice(
    model: Components, judge: Judge, options: dict[str, Any], seed: int = 0
) -> tuple[list[float], list[float], list[float]]:
    """Return the agreement of each attribute, KID, and the CPU seconds of a clip.

    Args:
        model: What is sampled.
        judge: Has the prompts.
        options: Of the sampler.
        seed: Of the sampling.
    """
    sampler = Sampler(model, unet_batch_size=UNET_BATCH, **options)
    for prompt in judge.prompts:
        sampler.pipeline.texts.condition(prompt)  # texts are encoded once, whatever the choice
    (images, sounds), cpu_s = timed(lambda: judge.draw(sampler, seed))
    agreements = [agreement.agreement for agreement in judge.agreements(images).values()]
    return agreements, [judge.distance(sounds)], [cpu_s / len(images)]


def describe_choice(choice: dict[str, Any]) -> str:
    """Return a choice as a text: solver, places and number of steps, guidance."""
    full = {**USUAL, **choice}
    parts = [f"{full['scheduler']} {full['timesteps']}, {full['num_inference_steps']} steps"]
    parts += [f"{full.get('guidance', 'cfg')} {full['guidance_scale']:g}"]
    low, high = full["guidance_interval"]
    parts += [] if (low, high) == (0, 1000) else [f"at {low} to {high}"]
    parts += [f"rescale {full['guidance_rescale']:g}"] if "guidance_rescale" in full else []
    parts += ["guide"] if "guide" in full else []
    return ", ".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit code: 0 done, 2 invalid input."""
    given = arguments_of(argv)

    def work() -> None:
        arguments = parse_arguments(given, f"{JUDGE_USAGE}, guide=PATH", keys=(*JUDGE_KEYS, "guide"))
        guide = arguments.values.get("guide")

        def measured(_quick: bool, number: int | None) -> list[Row]:
            return run(*open_judge(arguments.values, number), None if guide is None else load_guide(guide))

        command = "python -m benchmarks.guidance corpus=DIR dataset=DIR" + (" guide=PATH" if guide else "")
        measure("guidance", command, measured, arguments)

    return exit_code("benchmarks.guidance", work)


if __name__ == "__main__":
    sys.exit(main())
