"""What the benchmark of the judge compares: rank correlations with the classifier, the regret of each choice, and pictures."""

import dataclasses
import io
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from benchmarks.report import Goal, Row
from riffusion_train.audio.plots import curve_image, write_image


@dataclasses.dataclass(frozen=True)
class Measured:
    """One checkpoint, as the judge and the classifier see it."""

    seed: int
    step: int
    loss: float
    """The held-out loss."""
    kid: float | None
    agreement: float | None
    """By the judge."""
    copies: float | None
    """Share of the clips that the judge flags."""
    attributes: Mapping[str, float]
    """For each attribute of the corpus, the share of clips in which the classifier finds what was asked for."""
    is_chosen: bool = False
    """Whether the rule of `evaluate run` names it the best of its run."""

    @property
    def right(self) -> float:
        """What the monitors are to predict: the mean share of all attributes."""
        return statistics.fmean(self.attributes.values())


Runs = Sequence[Sequence[Measured]]
"""The checkpoints of each run, in the order of their steps."""

MONITORS: dict[str, Callable[[Measured], float | None]] = {
    "held-out loss": lambda one: -one.loss,
    "KID": lambda one: None if one.kid is None else -one.kid,
    "agreement": lambda one: one.agreement,
}
"""What could choose a checkpoint; more is better."""
RULE = "rule of evaluate run"
_UNIT = "Spearman's rank correlation"
_COPYING_SHARE, _MOST_FLAGGED = 0.5, 0.05


def monitored(run: Sequence[Measured], monitor: str) -> list[float] | None:
    """Return a monitor's value of each checkpoint; None where it could not be measured."""
    values = [MONITORS[monitor](one) for one in run]
    return None if any(value is None for value in values) else [value for value in values if value is not None]


def rank_correlation(values: Sequence[float], others: Sequence[float]) -> float:
    """Return Spearman's rank correlation; 0 where either does not vary, as nothing can be ranked then."""
    from scipy.stats import spearmanr

    if len(set(values)) < 2 or len(set(others)) < 2:
        return 0.0
    return float(spearmanr(values, others).statistic)


def regret(run: Sequence[Measured], chosen: Measured) -> float:
    """Return how much less often the chosen checkpoint is right than the best one of its run."""
    return max(one.right for one in run) - chosen.right


def choices(run: Sequence[Measured]) -> dict[str, Measured]:
    """Return the checkpoint that each monitor would choose, and the rule."""
    chosen = {}
    for monitor in MONITORS:
        values = monitored(run, monitor)
        if values is not None:
            chosen[monitor] = run[int(np.argmax(values))]
    return {**chosen, RULE: next(one for one in run if one.is_chosen)}


def figure_rows(runs: Runs, copying: Measured) -> list[Row]:
    """Return the rows of the benchmark; the values of each are those of the runs.

    Args:
        runs: The checkpoints of each run.
        copying: The model that was trained on a few slices.
    """
    right = [[one.right for one in run] for run in runs]
    every_right = list(itertools.chain.from_iterable(right))
    rows = []
    for monitor in MONITORS:
        values = [monitored(run, monitor) for run in runs]
        known = [value for value in values if value is not None]
        if len(known) < len(runs):
            continue
        each = [rank_correlation(*pair) for pair in zip(known, right, strict=True)]
        rows.append(Row(f"{monitor} and the classifier, checkpoints of one run", _UNIT, each))
        together = rank_correlation(list(itertools.chain.from_iterable(known)), every_right)
        rows.append(Row(f"{monitor} and the classifier, checkpoints of all runs", _UNIT, [together]))
    # Control: what a checkpoint drawn by lot would lose on average.
    by_lot = [statistics.fmean(regret(run, one) for one in run) for run in runs]
    chosen = [choices(run) for run in runs]
    rows += [
        Row(
            f"regret of the choice by {name}, against one by lot",
            "share of attributes",
            [regret(run, choice[name]) for run, choice in zip(runs, chosen, strict=True)],
            by_lot,
        )
        for name in chosen[0]
    ]
    rows += _checkpoint_rows(runs)
    last = [run[-1] for run in runs]
    if copying.copies is not None and all(one.copies is not None for one in last):
        flagged = [one.copies for one in last if one.copies is not None]
        title = "clips flagged as copies"
        rows.append(Row(f"{title}, last checkpoint", "share of clips", flagged, (), Goal.ours_at_most, _MOST_FLAGGED))
        rows.append(
            Row(f"{title}, model of ten slices", "share of clips", [copying.copies], flagged, Goal.ours_at_least,
                _COPYING_SHARE)
        )  # fmt: skip
    return rows


def _checkpoint_rows(runs: Runs) -> list[Row]:
    rows = []
    for same_step in zip(*runs, strict=True):
        name = f"step {same_step[0].step}"
        for figure, values in _figures(same_step).items():
            rows.append(Row(f"{name}: {figure}", "value", values))
        for attribute in same_step[0].attributes:
            shares = [one.attributes[attribute] for one in same_step]
            rows.append(Row(f"{name}: classifier, {attribute}", "share of clips", shares))
    return rows


def _figures(same_step: Sequence[Measured]) -> dict[str, list[float]]:
    """Return the figures of the checkpoints at one step, one value for each run; those that were not measured are left out."""
    every: dict[str, list[float | None]] = {
        "classifier's agreement": [one.right for one in same_step],
        "KID": [one.kid for one in same_step],
        "agreement": [one.agreement for one in same_step],
        "held-out loss": [one.loss for one in same_step],
        "copies": [one.copies for one in same_step],
    }
    known = {name: [value for value in values if value is not None] for name, values in every.items()}
    return {name: values for name, values in known.items() if len(values) == len(same_step)}


def draw(runs: Runs, folder: Path) -> Path:
    """Draw how the figures run over the steps, the mean of the runs with their range; return the path of the picture."""
    at_steps = [(float(same_step[0].step), _figures(same_step)) for same_step in zip(*runs, strict=True)]
    pictures = []
    for name in ("classifier's agreement", "KID", "agreement", "held-out loss"):
        values = {step: figures[name] for step, figures in at_steps if name in figures}
        png = curve_image(
            [(step, statistics.fmean(of_runs)) for step, of_runs in values.items()],
            y_label=name,
            intervals={step: (min(of_runs), max(of_runs)) for step, of_runs in values.items()},
        )
        if png is not None:
            pictures.append(PIL.Image.open(io.BytesIO(png)))
    width, height = pictures[0].size
    sheet = PIL.Image.new("RGB", (2 * width, -(-len(pictures) // 2) * height), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % 2 * width, number // 2 * height))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoints.png"
    write_image(path, sheet, colours=32)
    return path
