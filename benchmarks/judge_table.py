"""`python -m benchmarks.judge_table [--check] PAGE`: fill the tables of docs/evaluation.md from the benchmarks of the judge.

They are made from `results/judge.json` and `results/planted_copies.json`; without results a table stays empty.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.codec_table import Tables, fill
from benchmarks.command import RESULTS, arguments_of, exit_code, parse_arguments
from benchmarks.judge_figures import MONITORS, RULE
from riffusion_train.runtime.errors import InputError

_CHECKPOINT_COLUMNS = ("classifier's agreement", "KID", "agreement", "held-out loss", "copies")
_KINDS = ("exact", "shifted", "transposed", "re-encoded", "mixed")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables into a page, or only check them with `--check`. Returns the exit code: 0 done, 2 outdated tables."""

    def work() -> None:
        arguments = parse_arguments(arguments_of(argv), "one PAGE or --check", takes_name=True, flags=("--check",))
        page = Path(arguments.name)
        if not page.is_file():
            raise InputError(f"'{page}' is no page; give docs/evaluation.md")
        text = page.read_text(encoding="utf-8")
        filled = fill_all(text)
        if not arguments.flags:
            page.write_text(filled, encoding="utf-8")
        elif filled != text:
            raise InputError(f"{page}: its tables differ from the results; run python -m benchmarks.judge_table {page}")

    return exit_code("judge_table", work)


def fill_all(text: str, results: Path = RESULTS) -> str:
    """Return the text of the page with the tables of all results that there are in a folder."""
    for name, tables in _TABLES.items():
        file = results / f"{name}.json"
        text = fill(text, json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None, tables)
    return text


def _monitors(rows: dict[str, Any]) -> str:
    lines = ["| chosen by | rank correlation, one run | all runs | regret | by lot |", "|---|---|---|---|---|"]
    for name in (*MONITORS, RULE):
        lost = rows.get(f"regret of the choice by {name}, against one by lot")
        if lost is None:
            continue
        one, every = (
            _spread(rows.get(f"{name} and the classifier, checkpoints of {which}")) for which in ("one run", "all runs")
        )
        lines.append(f"| {name} | {one} | {every} | {_spread(lost)} | {lost['reference']:.3f} |")
    return "\n".join(lines)


def _checkpoints(rows: dict[str, Any]) -> str:
    steps = list(dict.fromkeys(what.partition(":")[0] for what in rows if what.startswith("step ")))
    columns = [name for name in _CHECKPOINT_COLUMNS if f"{steps[0]}: {name}" in rows]
    lines = [f"| checkpoint | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {step} | {' | '.join(_spread(rows[f'{step}: {name}']) for name in columns)} |" for step in steps]
    return "\n".join(lines)


def _copies(rows: dict[str, Any]) -> str:
    lines = [f"| images | false alarms | {' | '.join(_KINDS)} |", "|---" * (len(_KINDS) + 2) + "|"]
    for what, row in rows.items():
        if not what.endswith(": new clips flagged"):
            continue
        which = what.removesuffix(": new clips flagged")
        found = [rows.get(f"{which}: {kind} copies found where 1 % of new clips are") for kind in _KINDS]
        shares = ["" if one is None else f"{one['ours']:.0%}" for one in found]
        alarms = f"{100 * row['ours']:.1f} % ({100 * row['ours_min']:.1f} to {100 * row['ours_max']:.1f})"
        lines.append(f"| {which} | {alarms} | {' | '.join(shares)} |")
    return "\n".join(lines)


def _spread(row: dict[str, Any] | None) -> str:
    """Return the mean of a row, and its range where there are several values."""
    if row is None:
        return ""
    middle = f"{row['ours']:.3f}"
    return (
        middle if row["ours_min"] == row["ours_max"] else f"{middle} ({row['ours_min']:.3f} to {row['ours_max']:.3f})"
    )


_TABLES: dict[str, Tables] = {
    "judge": {"monitors": _monitors, "checkpoints": _checkpoints},
    "planted_copies": {"copies": _copies},
}


if __name__ == "__main__":
    sys.exit(main())
