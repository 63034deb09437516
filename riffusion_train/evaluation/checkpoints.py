"""The scores of a run's checkpoints, on disk and in memory, the rule that chooses the best one, and the page that shows them.

The page has curves over the steps, a table, the best checkpoint with the reason, and the clips of all.
"""

import dataclasses
import html
import json
import string
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from riffusion_train.audio.plots import curve_image
from riffusion_train.audition.site import PAGE_FILE
from riffusion_train.evaluation.report import pane, picture, unbroken
from riffusion_train.evaluation.results import LISTEN_DIR, Exhibit, ResultRow, shown
from riffusion_train.listening.distances import MEANINGS
from riffusion_train.runtime.files import content_policy, link_or_copy, write_atomically, write_json
from riffusion_train.runtime.provenance import machine, versions, write_rows
from riffusion_train.training.run_folder import step_name
from riffusion_train.training.run_model import FINAL, JUDGED_FILE

# --- scores and choice -----------------------------------------------------------------------------------------------

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
        stem = FINAL if self.checkpoint == FINAL else step_name(self.step)
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


# --- the page --------------------------------------------------------------------------------------------------------

_TABLE = (LOSS, "kid", "agreement", "retrieval", "coverage", "copies")
"""The figures of the table, and of the one on the terminal."""
_CURVES = (LOSS, *MEANINGS)
_LOSS_LABEL = "Held-out loss"
_LOSS_TEXT = "Lower is better. It says how well noise is removed, not how the clips sound."


@dataclasses.dataclass(frozen=True)
class RunPage:
    """Everything that the page shows."""

    out: Path
    title: str
    command: str
    """The command that made it, or empty."""
    about: Mapping[str, Any]
    checkpoints: Sequence[CheckpointScores]
    best: Choice
    played: Sequence[Sequence[Path | None]]
    """For each checkpoint, the sound of each shown prompt."""


def write_page(page: RunPage) -> Path:
    """Write `index.html`, and what it plays into `listen/`; return its path."""
    static = files("riffusion_train.evaluation") / "static"

    def read(name: str) -> str:
        return (static / name).read_text(encoding="utf-8")

    style, script = read("page.css") + read("score.css") + read("run.css"), read("page.js")
    page.out.mkdir(parents=True, exist_ok=True)
    head, *body = table_rows(page.checkpoints)
    curves, clips = "".join(_curve(what, page.checkpoints) for what in _CURVES), _clips(page)
    count = len(page.checkpoints)
    text = string.Template(read("run.html")).substitute(
        title=_text(page.title),
        policy=content_policy(style, script),
        style=style,
        script=script,
        summary=_text(
            f"{count} checkpoint{'' if count == 1 else 's'} of {page.about['run']}: {page.about['num_clips']} clips of each, "
            f"against {page.about['num_real']} real ones."
        ),
        tiles=_tiles(page.best.scores),
        best=_text(page.best.scores.name),
        reason=_text(page.best.reason[:1].upper() + page.best.reason[1:]),
        curves_hidden="" if curves else " hidden",
        curves=curves,
        heads="".join(f'<th scope="col">{_text(name)}</th>' for name in head),
        rows="".join(
            _row(one is page.best.scores, head, cells) for one, cells in zip(page.checkpoints, body, strict=True)
        ),
        clips_hidden="" if clips else " hidden",
        clips=clips,
        command_hidden="" if page.command else " hidden",
        command=_text(page.command),
        facts="".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in _facts(page)),
    )
    write_atomically(page.out / PAGE_FILE, text)
    return page.out / PAGE_FILE


def table_rows(checkpoints: Sequence[CheckpointScores]) -> list[list[str]]:
    """Return the main figures of each checkpoint as texts, below a row of their names; without those that nobody has."""
    used = [what for what in _TABLE if any(one.value(what) is not None for one in checkpoints)]
    return [
        ["checkpoint", *(_label(what) for what in used)],
        *([one.name, *(_shown(what, one.value(what)) for what in used)] for one in checkpoints),
    ]


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _label(what: str) -> str:
    return _LOSS_LABEL if what == LOSS else MEANINGS[what].label


def _shown(what: str, value: float | None) -> str:
    if value is not None and what in MEANINGS and MEANINGS[what].is_share:
        return f"{100 * value:.0f} %" if value >= 0.1 or value == 0 else f"{100 * value:.1f} %"
    return shown(value) if value is None else f"{value:.3g}"


def _tiles(best: CheckpointScores) -> str:
    found = [("Best", str(best.step), "its step")]
    for what in ("kid", "agreement", "copies"):
        row = best.row(what)
        if row is not None:
            meaning = MEANINGS[what]
            note = meaning.better if row.reference is None else f"{meaning.control}: {_shown(what, row.reference)}"
            found.append((meaning.label, _shown(what, row.ours), note))
    return "".join(
        f'<li><span class="tile-name">{_text(name)}</span><strong>{_text(value)}</strong>'
        f'<span class="tile-note">{unbroken(_text(note))}</span></li>'
        for name, value, note in found
    )


def _curve(what: str, checkpoints: Sequence[CheckpointScores]) -> str:
    points = [(float(one.step), value) for one in checkpoints if (value := one.value(what)) is not None]
    text = _LOSS_TEXT if what == LOSS else f"{MEANINGS[what].better.capitalize()}. {MEANINGS[what].meaning}"
    rows = {float(one.step): row for one in checkpoints if (row := one.row(what)) is not None}
    intervals = {
        step: (row.ours_min, row.ours_max)
        for step, row in rows.items()
        if row.ours_min is not None and row.ours_max is not None
    }
    return picture(curve_image(points, y_label=_label(what), intervals=intervals), _label(what), text)


def _row(is_best: bool, head: Sequence[str], cells: Sequence[str]) -> str:
    values = "".join(
        f'<td data-name="{_text(name)}">{_text(cell)}</td>' for name, cell in zip(head[1:], cells[1:], strict=True)
    )
    kind = ' class="is-best"' if is_best else ""
    return f'<tr{kind}><th scope="row">{_text(cells[0])}</th>{values}</tr>'


def _clips(page: RunPage) -> str:
    """Return the clips of each prompt side by side, in the order of the steps."""
    parts = []
    for number, prompt in enumerate(page.about["prompts"]):
        panes = [
            pane(_exhibit(page.out, one, number, sound, prompt))
            for one, sounds in zip(page.checkpoints, page.played, strict=True)
            if (sound := sounds[number]) is not None
        ]
        if panes:
            parts.append(
                f'<article class="of-prompt"><h3>{_text(prompt)}</h3><div class="row">{"".join(panes)}</div></article>'
            )
    return "".join(parts)


def _exhibit(out: Path, scores: CheckpointScores, number: int, sound: Path, prompt: str) -> Exhibit:
    stem = f"{scores.file_name.removesuffix('.json')}-{number:02d}"
    for suffix in (".wav", ".png"):
        target = out / LISTEN_DIR / f"{stem}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # of an earlier page with other prompts
        link_or_copy(sound.with_suffix(suffix), target)
    return Exhibit(scores.name, prompt, f"{LISTEN_DIR}/{stem}.wav", f"{LISTEN_DIR}/{stem}.png")


def _facts(page: RunPage) -> list[tuple[str, object]]:
    about, hardware, packages = page.about, machine(), versions()
    return [
        ("weights", about["weights"]),
        ("real", f"{about['num_real']} from {about['real']}"),
        ("embedder", about["embedder"]),
        ("machine", f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB"),
        ("software", ", ".join(f"{name} {packages[name]}" for name in ("riffusion-train", "python", "torch"))),
    ]
