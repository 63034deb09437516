"""The figures of a scoring as rows, as `scores.json`, and as a table for the terminal."""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riffusion_train.evaluation.clips import ClipFile
from riffusion_train.listening.figures import MEANINGS
from riffusion_train.listening.judge import ClipScores, Scores
from riffusion_train.listening.sound import MEASURES, SoundMeasures
from riffusion_train.runtime.provenance import write_rows

SCORES_FILE = "scores.json"
PAGE_FILE = "index.html"

_LABELS = {name: meaning.label for name, meaning in MEANINGS.items()}
_LABELS |= {measure.name: measure.label[:1].upper() + measure.label[1:] for measure in MEASURES}


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One figure of a set of clips."""

    what: str
    unit: str
    ours: float | None
    """Its value; None where there are too few clips for one."""
    ours_min: float | None
    """Lower end of its interval; for a measure of the sound, the smallest of all clips."""
    ours_max: float | None
    reference: float | None
    """The control: shuffled captions, or the same figure of real music; None where there is none."""
    reference_min: float | None = None
    reference_max: float | None = None
    needed: int | None = None
    """Number of clips that the figure needs, where there are too few."""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the reference; None without one, or where it is 0."""
        return self.ours / self.reference if self.ours is not None and self.reference else None

    @property
    def label(self) -> str:
        """Its name for people; what follows a comma in `what` stays."""
        name, comma, more = self.what.partition(",")
        return _LABELS.get(name, name.replace("_", " ")) + comma + more

    def as_json(self) -> dict[str, Any]:
        """Return plain data, to five digits."""
        data = {**dataclasses.asdict(self), "ratio": self.ratio}
        return {name: _rounded(value) for name, value in data.items()}


@dataclasses.dataclass(frozen=True)
class ScoredClip:
    """One clip with everything that was found out about it."""

    file: ClipFile
    sound: SoundMeasures
    scores: ClipScores

    def as_json(self) -> dict[str, Any]:
        """Return plain data, to five digits."""
        own = {"file": self.file.name, "captions": list(self.file.captions)}
        return {**own, **_all_rounded(self.scores.as_json()), **_all_rounded(dataclasses.asdict(self.sound))}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` returns."""

    out: Path
    """The folder of the page."""
    rows: Sequence[ResultRow]
    clips: Sequence[ScoredClip]
    warnings: Sequence[str]
    """What was left out or should be known, one line each."""
    about: dict[str, Any]
    """What was compared with what."""

    @property
    def page(self) -> Path:
        """The path of the page."""
        return self.out / PAGE_FILE

    @property
    def scores_file(self) -> Path:
        """The path of `scores.json`."""
        return self.out / SCORES_FILE

    def row(self, what: str) -> ResultRow:
        """Return the figure of a name, such as `kid`.

        Raises:
            KeyError: If there is none.
        """
        for row in self.rows:
            if row.what == what:
                return row
        raise KeyError(what)

    def table(self) -> str:
        """Return the figures as text for a terminal: value, interval, control, unit."""
        width = max((len(row.label) for row in self.rows), default=0) + 2
        lines = [f"{'':<{width}}{'clips':>10}{'from':>10}{'to':>10}{'control':>10}"]
        for row in self.rows:
            cells = "".join(f"{shown(value):>10}" for value in (row.ours, row.ours_min, row.ours_max, row.reference))
            why_not = row.note or (f"needs {row.needed} clips" if row.needed is not None else "")
            remarks = why_not if row.ours is None else "; ".join(filter(None, [row.unit, row.note]))
            lines.append(f"{row.label:<{width}}{cells}  {remarks}".rstrip())
        return "\n".join(lines)


def shown(value: float | None) -> str:
    """Return a figure for people: four digits, a dash where there is none."""
    return "–" if value is None else f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def rows_of_scores(scores: Scores) -> list[ResultRow]:
    """Return the judge's figures as rows."""
    return [
        ResultRow(row.what, row.unit, row.value, row.low, row.high, row.control, needed=row.needed, note=row.note)
        for row in scores.rows
    ]


def rows_of_sounds(clips: Sequence[SoundMeasures], real: Sequence[SoundMeasures]) -> list[ResultRow]:
    """Return a row for each measure of the sound: the median of the clips, beside that of the real ones."""
    rows = []
    for measure in MEASURES:
        ours, theirs = (
            [value for one in group if (value := getattr(one, measure.name)) is not None] for group in (clips, real)
        )
        rows.append(
            ResultRow(
                measure.name,
                f"{measure.unit}, median",
                *(_spread(ours)),
                *(_spread(theirs)),
                note="" if ours else "no clip has one",
            )
        )
    return rows


def write_scores(evaluation: Evaluation, command: str) -> Path:
    """Write `scores.json` into the folder of an evaluation; return its path."""
    more = {
        "about": evaluation.about,
        "warnings": list(evaluation.warnings),
        "clips": [clip.as_json() for clip in evaluation.clips],
    }
    write_rows(evaluation.scores_file, command, [row.as_json() for row in evaluation.rows], more=more, indent=1)
    return evaluation.scores_file


def _spread(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Return median, minimum and maximum; three None of nothing."""
    return (float(statistics.median(values)), min(values), max(values)) if values else (None, None, None)


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _all_rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _all_rounded(one) for name, one in value.items()}
    return [_all_rounded(one) for one in value] if isinstance(value, list | tuple) else _rounded(value)
