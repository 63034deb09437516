"""The figures of a demo: typed rows, and `figures.json`."""

import dataclasses
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from riffusion_train.evaluation.listening import Agreement

FIGURES_FILE = "figures.json"

_PACKAGES = (
    "riffusion-train",
    "torch",
    "diffusers",
    "transformers",
    "datasets",
    "numpy",
    "scikit-learn",
    "midirenderer",
)


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


def write_figures(path: Path, command: str, rows: Sequence[FigureRow], repository: Path | None = None) -> None:
    """Write `figures.json`: the command, git state, machine, versions, and the rows.

    Args:
        path: The file; it appears whole or not at all.
        command: The command that made the figures, as a user would type it.
        rows: The figures.
        repository: A folder whose git state is noted; None takes the current one.
    """
    data: dict[str, Any] = {
        "command": command,
        "git": git_state(repository or Path.cwd()),
        "machine": machine(),
        "versions": versions(),
        "rows": [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows],
    }
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and whether there are uncommitted changes; None outside a repository or without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "uncommitted_changes": bool(changed)}


def machine() -> dict[str, str]:
    """Return processor, core count and system, for people who compare figures."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": _processor(), "cores": str(available), "system": platform.platform(terse=True)}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape the result, those that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
