"""The scores of one checkpoint of a run, on disk and in memory, and the rule that chooses the best checkpoint."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from riffusion_train.evaluation.results import ResultRow
from riffusion_train.runtime.files import write_json
from riffusion_train.runtime.provenance import write_rows
from riffusion_train.training.run_model import FINAL, JUDGED_FILE

SCHEMA_VERSION = 1
LOSS = "validation_loss"
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclasses.dataclass(frozen=True)
class CheckpointScores:
    """What is known of one checkpoint."""

    checkpoint: str
    """How `checkpoint=` names it: its step, or `final`."""
    step: int
    weights: str
    """Which of its weights: `ema` or `raw`."""
    fingerprint: str
    """A hash of them."""
    settings: str
    """A hash of everything else that decides the scores."""
    rows: Sequence[ResultRow]
    clips: Sequence[Mapping[str, Any]] = ()
    """The scores of each clip, as plain data."""
    loss: float | None = None
    """The held-out loss."""

    @property
    def name(self) -> str:
        """Its name on pages."""
        return f"step {self.step}" + (" (final)" if self.checkpoint == FINAL else "")

    @property
    def file_name(self) -> str:
        """The name of its file in `scores/`."""
        stem = FINAL if self.checkpoint == FINAL else f"step-{self.step:06d}"
        return f"{stem}{'' if self.weights == 'ema' else f'-{self.weights}'}.json"

    def row(self, what: str) -> ResultRow | None:
        """Return a figure that has a value; None without it."""
        return next((row for row in self.rows if row.what == what and row.ours is not None), None)

    def value(self, what: str) -> float | None:
        """Return the value of a figure, or of the loss; None without one."""
        if what == LOSS:
            return self.loss
        row = self.row(what)
        return None if row is None else row.ours

    def write(self, folder: Path, command: str, about: Mapping[str, Any] | None = None) -> None:
        """Write the scores into `scores/` of the run, with what was compared with what, for the model card."""
        folder.mkdir(parents=True, exist_ok=True)
        own = {
            name: getattr(self, name) for name in ("checkpoint", "step", "weights", "fingerprint", "settings", "loss")
        }
        more = {"schema_version": SCHEMA_VERSION, **own, "about": dict(about or {}), "clips": list(self.clips)}
        write_rows(folder / self.file_name, command, [row.as_json() for row in self.rows], more=more, indent=1)


def read_scores(folder: Path) -> Iterator[CheckpointScores]:
    """Yield the scores of a run that can be read, in the order of their steps; a damaged file is as good as none."""
    found = []
    for path in folder.glob("*.json"):
        if path.name not in (JUDGED_FILE, "site.json"):
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
                if data["schema_version"] == SCHEMA_VERSION:
                    found.append(_from_json(data))
            except _READ_ERRORS:
                continue
    yield from sorted(found, key=lambda one: (one.step, one.checkpoint == FINAL))


def _from_json(data: Mapping[str, Any]) -> CheckpointScores:
    names = [field.name for field in dataclasses.fields(ResultRow)]
    return CheckpointScores(
        checkpoint=str(data["checkpoint"]),
        step=int(data["step"]),
        weights=str(data["weights"]),
        fingerprint=str(data["fingerprint"]),
        settings=str(data["settings"]),
        rows=[ResultRow(**{name: row[name] for name in names}) for row in data["rows"]],
        clips=data["clips"],
        loss=None if data["loss"] is None else float(data["loss"]),
    )


@dataclasses.dataclass(frozen=True)
class Choice:
    """The checkpoint that is named the best."""

    scores: CheckpointScores
    reason: str
    """Why, in a sentence."""

    def write(self, folder: Path) -> None:
        """Write what `checkpoint=judged` reads."""
        data = {
            "schema_version": SCHEMA_VERSION,
            "checkpoint": self.scores.checkpoint,
            "step": self.scores.step,
            "weights": self.scores.weights,
            "fingerprint": self.scores.fingerprint,
            "reason": self.reason,
        }
        write_json(folder / JUDGED_FILE, data)


def choose(scored: Sequence[CheckpointScores]) -> Choice:
    """Return the best checkpoint: the lowest KID among those that follow their captions as well as any and do not copy.

    1. Agreement: the interval of a checkpoint must reach the highest agreement of all; checkpoints below it follow their
       captions less well, however good they sound. Where no agreement could be measured, all pass.
    2. Copies: the share of clips that are flagged must not be above what is expected of real music; more exactly, the
       interval of that share must reach down to it. Where none passes, those with the fewest copies do.
    3. KID: the lowest of what is left.

    Args:
        scored: The checkpoints, at least one; KID must be known of each.
    """
    agreeing = _agreeing(scored)
    original = [one for one in agreeing if not _copies_too_often(one)]
    fewest = min(one.value("copies") or 0.0 for one in agreeing)
    kept = original or [one for one in agreeing if (one.value("copies") or 0.0) == fewest]
    best = min(kept, key=_kid)
    reasons = [f"{best.name} has the lowest KID, {_kid(best):.4g}, of {_number(len(kept), 'checkpoint')}"]
    if len(kept) < len(scored):
        conditions = [
            *(["follow their captions as well as any"] if len(agreeing) < len(scored) else []),
            *(["do not copy more than real music does"] if original and len(original) < len(agreeing) else []),
            *(["copy least"] if not original else []),
        ]
        reasons[0] += f" that {' and '.join(conditions)}"
    if (agreement := best.value("agreement")) is not None:
        highest = max(one.value("agreement") or 0.0 for one in scored)
        reasons.append(
            f"agreement {agreement:.2f}" + (f", the highest is {highest:.2f}" if highest > agreement else "")
        )
    if (copies := best.row("copies")) is not None:
        expected = f", {copies.reference:.0%} are expected" if copies.reference is not None else ""
        reasons.append(f"copies {copies.ours:.0%}{expected}")
    lower = min(scored, key=_kid)
    if lower not in kept:
        fault = "copies more" if lower in agreeing else "follows its captions less well"
        reasons.append(f"{lower.name} has a lower KID, {_kid(lower):.4g}, and {fault}")
    return Choice(best, "; ".join(reasons))


def _kid(scores: CheckpointScores) -> float:
    value = scores.value("kid")
    assert value is not None
    return value


def _agreeing(scored: Sequence[CheckpointScores]) -> list[CheckpointScores]:
    """Return the checkpoints whose agreement with the captions cannot be told from the highest."""
    rows = [one.row("agreement") for one in scored]
    highest = max((row.ours for row in rows if row is not None and row.ours is not None), default=None)
    if highest is None:
        return list(scored)
    return [
        one
        for one, row in zip(scored, rows, strict=True)
        if row is not None and max(row.ours or 0.0, row.ours_max or 0.0) >= highest
    ]


def _copies_too_often(scores: CheckpointScores) -> bool:
    """Whether even the lower end of the interval is above the share that is expected among real music."""
    row = scores.row("copies")
    if row is None or row.ours_min is None or row.reference is None:
        return False
    return row.ours_min > row.reference


def _number(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
