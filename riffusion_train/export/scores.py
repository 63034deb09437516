"""The scores of a model on its card: a table in plain words, and metrics that the hub reads."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riffusion_train.config.export import ExportWeights
from riffusion_train.config.train import OptimizerName
from riffusion_train.listening.figures import MEANINGS, Meaning
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.run_model import FINAL, RunModel

SCORES_FILE = "scores.json"
_SHOWN = ("kid", "fad", "coverage", "agreement", "retrieval", "clap_score", "tempo", "key", "copies")
"""Figures that go onto a card, in this order; the others answer the same questions."""


@dataclasses.dataclass(frozen=True)
class Score:
    """One figure of a model."""

    what: str
    """Its name, one of those of `scores.json`."""
    value: float
    low: float | None = None
    """Lower end of its interval."""
    high: float | None = None
    control: float | None = None
    """The same figure of real music, of shuffled captions, or of false alarms."""

    @property
    def meaning(self) -> Meaning:
        """What it says."""
        return MEANINGS[self.what]


@dataclasses.dataclass(frozen=True)
class ModelScores:
    """What `riffusion evaluate` measured of a model."""

    scores: Sequence[Score]
    num_clips: int | None = None
    num_real: int | None = None
    embedder: str = "musicnn"

    def values(self) -> dict[str, float]:
        """Return the value of each figure by its name."""
        return {score.what: score.value for score in self.scores}

    def text(self) -> str:
        """Return the part of the card: what was compared, and the table."""
        clips = "Clips" if self.num_clips is None else f"{self.num_clips} clips"
        real = "real ones" if self.num_real is None else f"{self.num_real} real ones"
        lines = [
            "\n## How good it is\n",
            f"{clips} were compared with {real} by `riffusion evaluate`; {self.embedder} listened. "
            "Figures of other models compare only if the same clips and the same embedder were used.\n",
            "| figure | this model | 95 % interval | compare with | what it says |",
            "|---|---|---|---|---|",
        ]
        for score in self.scores:
            meaning = score.meaning
            interval = "–"
            if score.low is not None and score.high is not None:
                interval = f"{_shown(score.low, meaning)} to {_shown(score.high, meaning)}"
            control = "–" if score.control is None else f"{_shown(score.control, meaning)} ({meaning.control})"
            says = f"{meaning.meaning} {meaning.better[:1].upper()}{meaning.better[1:]}."
            cells = (meaning.label, f"**{_shown(score.value, meaning)}**", interval, control, says)
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def metrics(self) -> list[dict[str, Any]]:
        """Return the figures as metrics of a `model-index`."""
        return [
            {
                "type": score.what,
                "name": f"{score.meaning.label} ({self.embedder})",
                "value": float(f"{score.value:.6g}"),
            }
            for score in self.scores
        ]


def scores_of_run(model: RunModel) -> ModelScores | None:
    """Return what `evaluate run` measured of the exported weights; None if it has not, or of others."""
    averaged = model.config.ema.enabled or model.config.optimizer.name is OptimizerName.schedule_free
    # Of a run without averaged weights there is but one kind, whatever it is called.
    kinds = [model.weights] if averaged else list(ExportWeights)
    for kind in kinds:
        for stem in (f"step-{model.step:06d}", FINAL):
            path = model.run.scores / f"{stem}{'' if kind is ExportWeights.ema else f'-{kind.value}'}.json"
            data = _read(path) if path.is_file() else None
            if data is not None and data["step"] in (None, model.step):
                return _scores(data)
    return None


def read_scores(path: Path) -> ModelScores:
    """Read a file of scores, or the folder that holds `scores.json`.

    Raises:
        InputError: If it is no such file, or holds no figure for a card.
    """
    file = path / SCORES_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"scores={path}: no such file; name the scores.json that riffusion evaluate score wrote")
    scores = _scores(_read(file))
    if scores is None:
        raise InputError(f"scores={path}: holds no figure that a card shows ({', '.join(_SHOWN)})")
    return scores


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        rows, about = data["rows"], data.get("about") or {}
        for row in rows:
            row["what"], row["ours"]
        about = {"num_clips": len(data["clips"]) if "clips" in data else None, **about}
        return {"rows": rows, "about": about, "step": data.get("step")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: is no file of scores; make it again with riffusion evaluate") from None


def _scores(data: dict[str, Any]) -> ModelScores | None:
    rows, about = {row["what"]: row for row in data["rows"]}, data["about"]
    scores = []
    for what in _SHOWN:
        row = rows.get(what)
        if row is None or not isinstance(row["ours"], int | float) or not math.isfinite(row["ours"]):
            continue
        if what == "fad" and row.get("note"):  # of too few clips, which only sets of the same size share
            continue
        low, high, control = (row.get(name) for name in ("ours_min", "ours_max", "reference"))
        scores.append(Score(what, float(row["ours"]), low, high, control))
    if not scores:
        return None
    return ModelScores(scores, about.get("num_clips"), about.get("num_real"), str(about.get("embedder") or "musicnn"))


def _shown(value: float, meaning: Meaning) -> str:
    if not meaning.is_share:
        return f"{value:.4g}"
    return f"{100 * value:.0f} %" if value >= 0.1 or value == 0 else f"{100 * value:.1f} %"
