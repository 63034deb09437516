"""The rows of a benchmark, and their file `results/NAME.json`."""

import dataclasses
import enum
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riffusion_train.runtime.provenance import write_rows


class Goal(enum.Enum):
    """What a target limits."""

    ours_at_most = "ours <= {}"
    ours_at_least = "ours >= {}"
    ratio_at_most = "ours / reference <= {}"
    ratio_at_least = "ours / reference >= {}"
    speedup_at_least = "reference / ours >= {}"
    difference_at_most = "|ours - reference| <= {}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure and its reference.

    Attributes:
        what: What was measured.
        unit: Its unit.
        ours: The value of each repeat or clip.
        reference: The values of the reference, in the same order; empty if there is none.
        goal: What the target limits, if there is a target.
        limit: The number of the target.
        median: Summarize by the median, as for times, instead of the mean, as for errors.
    """

    what: str
    unit: str
    ours: Sequence[float]
    reference: Sequence[float] = ()
    goal: Goal | None = None
    limit: float = 0.0
    median: bool = False

    @property
    def value(self) -> float:
        """Median or mean of ours."""
        return self._middle(self.ours)

    @property
    def reference_value(self) -> float | None:
        """Median or mean of the reference; None if there is none."""
        return self._middle(self.reference) if self.reference else None

    @property
    def ratio(self) -> float | None:
        """Ours over the reference; for medians, the median of the ratios of each repeat. None without a reference."""
        if self.median and len(self.ours) == len(self.reference) and all(self.reference):
            return statistics.median(
                ours / reference for ours, reference in zip(self.ours, self.reference, strict=True)
            )
        return self.value / self.reference_value if self.reference_value else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.goal is None:
            return None
        reference = self.reference_value or 0.0
        ratio = self.ratio if self.ratio is not None else float("inf")
        return {
            Goal.ours_at_most: self.value <= self.limit,
            Goal.ours_at_least: self.value >= self.limit,
            Goal.ratio_at_most: ratio <= self.limit,
            Goal.ratio_at_least: self.ratio is not None and ratio >= self.limit,
            Goal.speedup_at_least: ratio <= 1 / self.limit if self.limit else False,
            Goal.difference_at_most: abs(self.value - reference) <= self.limit,
        }[self.goal]

    def as_data(self) -> dict[str, Any]:
        """Return the row as it is written to the file."""
        return {
            "what": self.what,
            "unit": f"{self.unit}, {'median' if self.median else 'mean'} of {len(self.ours)}",
            "ours": self.value,
            "ours_min": min(self.ours),
            "ours_max": max(self.ours),
            "reference": self.reference_value,
            "reference_min": min(self.reference, default=None),
            "reference_max": max(self.reference, default=None),
            "ratio": self.ratio,
            "target": self.goal.value.format(f"{self.limit:g}") if self.goal else None,
            "met": self.met,
        }

    def _middle(self, values: Sequence[float]) -> float:
        return float(statistics.median(values) if self.median else statistics.fmean(values))


def write_results(path: Path, command: str, rows: Sequence[Row]) -> Path:
    """Write the command, git state, machine, versions and rows as one whole file; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, command, [_rounded(row.as_data()) for row in rows], indent=1)
    return path


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text for a terminal."""
    lines = []
    for row in rows:
        reference = "" if row.reference_value is None else f"{row.reference_value:.4g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        target = (
            "" if row.goal is None else f"{'met' if row.met else 'MISSED'}: {row.goal.value.format(f'{row.limit:g}')}"
        )
        lines.append(f"{row.what:<68}{row.value:>10.4g}{reference:>10}{ratio:>9}  {row.unit:<22}{target}")
    return "\n".join([f"{'':<68}{'ours':>10}{'reference':>10}{'ratio':>9}", *lines])


def _rounded(data: dict[str, Any]) -> dict[str, Any]:
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in data.items()}
