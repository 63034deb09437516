"""The figures of a demo: typed rows, and `figures.json`."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from riffusion_train.evaluation.listening import Agreement
from riffusion_train.runtime.provenance import git_state, machine, versions

FIGURES_FILE = "figures.json"


@dataclasses.dataclass(frozen=True)
class FigureRow:
    """One measured figure beside its reference; the medians, with the smallest and the largest value of the repeats."""

    what: str
    unit: str
    ours: float
    ours_min: float
    ours_max: float
    reference: float
    reference_min: float
    reference_max: float
    target: float | None = None
    """The least that was asked for, where something was."""
    ceiling: float | None = None
    """What a perfect result would score, where that is known."""

    @property
    def ratio(self) -> float | None:
        """Ours over the reference; None where the reference is 0."""
        return self.ours / self.reference if self.reference else None


def agreement_rows(agreements: Sequence[Agreement], targets: Mapping[str, float] | None = None) -> list[FigureRow]:
    """Return one row an attribute: agreement of the clips with their own captions, beside shuffled captions."""
    return [
        FigureRow(
            what=f"{item.attribute} agrees with the caption",
            unit="share of clips",
            ours=item.agreement,
            ours_min=item.agreement,
            ours_max=item.agreement,
            reference=item.shuffled,
            reference_min=item.shuffled_min,
            reference_max=item.shuffled_max,
            target=(targets or {}).get(item.attribute),
            ceiling=item.real,
        )
        for item in agreements
    ]


def write_figures(path: Path, command: str, rows: Sequence[FigureRow]) -> None:
    """Write `figures.json`: the command, git state, machine, versions, and the rows.

    Args:
        path: The file; it appears whole or not at all.
        command: The command that made the figures, as a user would type it.
        rows: The figures.
    """
    data: dict[str, Any] = {
        "command": command,
        "git": git_state(),
        "machine": machine(),
        "versions": versions(),
        "rows": [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows],
    }
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)
