"""Solvers, steps and guidance on the demo's model: `python -m benchmarks.guidance demo=DIR [guide=PATH] [clips=N] [out=DIR]`.

For every choice: how often the demo's classifier hears in the image what the prompt asks for (mean of its four attributes), the
kernel inception distance (Bińkowski et al. 2018, arXiv:1801.01401) of the classifier's image features from those of real clips
after codec and VAE, and the CPU seconds of a clip up to its image, on one thread.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command import arguments_of, exit_code, measure, parse_arguments
from benchmarks.report import Row
from benchmarks.timing import timed
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.demo.judged import ATTRIBUTES, CaptionClassifier, image_features
from riffusion_train.model.components import Components, freeze
from riffusion_train.model.loading import load_components
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.modes.base import TextRequest
from riffusion_train.sampling.sampler import Sampler
from riffusion_train.training.run_model import load_guide

_BATCH = 16
USUAL: dict[str, Any] = {
    "scheduler": "dpmsolver",
    "timesteps": "karras",
    "num_inference_steps": 20,
    "guidance_scale": 7.0,
    "guidance_interval": (0, 1000),
}
"""What all rows are compared with: the usual choice of models that recommend nothing."""

NOISY_PART = (300, 1000)


def choices(guide: Components | None) -> list[dict[str, Any]]:
    """Return the choices that are measured: options of the sampler in which each differs from the usual one."""
    solvers = [
        {"scheduler": solver, "timesteps": place, "num_inference_steps": steps, "guidance_scale": 2}
        for steps in (8, 4)
        for solver, place in (
            ("euler", "model"),
            ("dpmsolver", "karras"),
            ("dpmsolver", "trailing"),
            ("dpmsolver", "ays"),
            ("euler", "trailing"),
            ("ddim", "trailing"),
            ("unipc", "trailing"),
            ("dpmsolver_sde", "trailing"),
        )
    ]
    euler: dict[str, Any] = {"scheduler": "euler", "timesteps": "model", "num_inference_steps": 8}
    five = euler | {"guidance_scale": 5}
    kinds = [
        five,
        five | {"guidance_interval": NOISY_PART},
        euler | {"guidance_scale": 2, "guidance_interval": NOISY_PART},
    ]
    kinds += [five | {"guidance": "apg"}, five | {"guidance_rescale": 0.7}]
    if guide is not None:
        kinds += [euler | {"guidance_scale": scale, "guide": guide} for scale in (2, 3)]
    strengths: list[dict[str, Any]] = [{"guidance_scale": scale} for scale in (1, 2, 3, 5)]
    intervals: list[dict[str, Any]] = [{"guidance_interval": NOISY_PART}]
    intervals += [{"guidance_scale": 5, "guidance_interval": part} for part in (NOISY_PART, (500, 1000), (0, 800))]
    return [{}, *solvers, *kinds, *strengths, *intervals]


@dataclasses.dataclass(frozen=True)
class Judge:
    """What generated images are compared with."""

    prompts: list[str]
    expected: dict[str, list[str]]
    """For every attribute, what each prompt asks for."""
    classifier: CaptionClassifier
    real: np.ndarray
    """Features of real images after codec and VAE, (clips, features)."""

    @classmethod
    def open(cls, dataset: Path, model: Components, clips: int) -> "Judge":
        """Read held-out clips; a prompt is the caption of each, a real image its own after the VAE."""
        held_out = SpectrogramDataset(open_dataset_folder(dataset), "validation")
        rows = held_out.rows
        if not set(ATTRIBUTES) <= set(rows.column_names):
            raise InputError(f"{dataset}: has no attributes to judge by; make it with riffusion demo base=none")
        labels = {name: [str(value) for value in rows[name]] for name in ATTRIBUTES}
        images = [held_out.image(index) for index in range(len(held_out))]
        pipeline = Sampler(model).pipeline
        count = min(clips, len(images))
        real = [pipeline.decode(pipeline.encode(image)) for image in images]
        return cls(
            [held_out.captions(index)[0] for index in range(count)],
            {name: values[:count] for name, values in labels.items()},
            CaptionClassifier(images, labels),
            np.stack([image_features(image) for image in real]),
        )

    def agreements(self, images: Sequence[np.ndarray]) -> list[float]:
        """Return for each attribute the share of images that agree with their prompts."""
        return list(self.classifier.accuracy(images, self.expected).values())

    def distance(self, features: np.ndarray) -> float:
        """Return the kernel distance of features from those of real images."""
        return kernel_distance(features, self.real)


def kernel_distance(made: np.ndarray, real: np.ndarray) -> float:
    """Return the unbiased squared maximum mean discrepancy, kernel `(x · y / d + 1)³`, of features (clips, d).

    Each feature is standardised by the real ones. It is 0 on average for samples of one distribution, and may be below.
    """
    mean, spread = real.mean(axis=0), real.std(axis=0) + 1e-6
    x, y = (made - mean) / spread, (real - mean) / spread

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one @ other.T / one.shape[1] + 1) ** 3

    def within(one: np.ndarray) -> float:
        values, count = kernel(one, one), len(one)
        return float((values.sum() - np.trace(values)) / (count * (count - 1)))

    return within(x) + within(y) - 2 * float(kernel(x, y).mean())


def run(demo: Path, guide: str | None = None, *, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Measure all choices.

    Args:
        demo: The folder of a finished demo.
        guide: A weaker model, or a checkpoint of the demo's run, for autoguidance.
        quick: Four choices with few clips, to show that it runs.
        max_clips: Clips of each choice.

    Raises:
        InputError: If the folder is no finished demo.
    """
    for part in ("model", "dataset"):
        if not (demo / part).is_dir():
            raise InputError(f"demo={demo}: has no {part}/; give the out= of a finished riffusion demo")
    torch.set_num_threads(1)
    model = dataclasses.replace(load_components(str(demo / "model")), sampling={})
    freeze(model)
    judge = Judge.open(demo / "dataset", model, 4 if quick else max_clips or 144)
    measured = choices(None if guide is None else load_guide(guide))
    rows: list[Row] = []
    usual: list[Sequence[float]] = []
    for choice in measured[:4] if quick else measured:
        agreements, distance, seconds = measure_choice(model, judge, choice)
        values: list[Sequence[float]] = [agreements, [distance], [seconds]]
        usual = usual or values
        for unit, ours, reference in zip(UNITS, values, usual, strict=True):
            rows.append(Row(describe_choice(choice), unit, ours, reference))
        print(f"{describe_choice(choice):<64} {np.mean(agreements):.3f} {distance:8.3f} {seconds:.3f}", flush=True)
    return rows


UNITS = ("agreement", "KID", "CPU s a clip")
"""Of what `measure_choice` returns."""


def measure_choice(model: Components, judge: Judge, choice: dict[str, Any]) -> tuple[list[float], float, float]:
    """Return the agreement of each attribute, the kernel distance and the CPU seconds of a clip.

    Args:
        model: What is sampled.
        judge: Has the prompts.
        choice: Options of the sampler in which it differs from the usual ones.
    """
    sampler = Sampler(model, unet_batch_size=_BATCH, **{**USUAL, **choice})
    requests = [
        TextRequest(prompt=prompt, seed=index, guidance_scale=sampler.guidance_scale)
        for index, prompt in enumerate(judge.prompts)
    ]
    for prompt in judge.prompts:
        sampler.pipeline.texts.condition(prompt)  # texts are encoded once, whatever the choice

    def draw() -> Iterator[np.ndarray]:
        for first in range(0, len(requests), _BATCH):
            yield from sampler.images(requests[first : first + _BATCH])

    images, seconds = timed(lambda: list(draw()))
    features = np.stack([image_features(image) for image in images])
    return judge.agreements(images), judge.distance(features), seconds / len(images)


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
        keys = ("demo", "guide", "clips", "out")
        arguments = parse_arguments(
            given, "demo=DIR, guide=PATH, clips=N, --quick or out=DIR", flags=("--quick",), keys=keys
        )
        if "demo" not in arguments.values:
            raise InputError("demo=DIR is missing; give the out= of a finished riffusion demo")
        demo, guide = Path(arguments.values["demo"]), arguments.values.get("guide")
        command = "python -m benchmarks.guidance demo=DIR" + (" guide=PATH" if guide else "")
        measure(
            "guidance",
            command,
            lambda quick, number: run(demo, guide, quick=quick, max_clips=number),
            arguments,
        )

    return exit_code("benchmarks.guidance", work)


if __name__ == "__main__":
    sys.exit(main())
