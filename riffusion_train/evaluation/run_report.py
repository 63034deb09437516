"""The page of a run's checkpoints: curves over the steps, a table, the best one with the reason, and their clips."""

import dataclasses
import html
import string
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from riffusion_train.audio.plots import curve_image
from riffusion_train.audition.site import PAGE_FILE
from riffusion_train.evaluation.checkpoints import LOSS, CheckpointScores, Choice
from riffusion_train.evaluation.exhibits import FOLDER, Exhibit
from riffusion_train.evaluation.report import pane, picture
from riffusion_train.evaluation.results import shown
from riffusion_train.listening.figures import MEANINGS
from riffusion_train.runtime.files import link_or_copy, write_atomically
from riffusion_train.runtime.pages import content_policy
from riffusion_train.runtime.provenance import machine, versions

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
            note = meaning.better if row.reference is None else f"{_shown(what, row.reference)}: {meaning.control}"
            found.append((meaning.label, _shown(what, row.ours), note))
    return "".join(
        f'<li><span class="tile-name">{_text(name)}</span><strong>{_text(value)}</strong>'
        f'<span class="tile-note">{_text(note)}</span></li>'
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
        target = out / FOLDER / f"{stem}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # of an earlier page with other prompts
        link_or_copy(sound.with_suffix(suffix), target)
    return Exhibit(scores.name, prompt, f"{FOLDER}/{stem}.wav", f"{FOLDER}/{stem}.png")


def _facts(page: RunPage) -> list[tuple[str, object]]:
    about, hardware, packages = page.about, machine(), versions()
    return [
        ("weights", about["weights"]),
        ("real", f"{about['num_real']} from {about['real']}"),
        ("embedder", about["embedder"]),
        ("machine", f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB"),
        ("software", ", ".join(f"{name} {packages[name]}" for name in ("riffusion-train", "python", "torch"))),
    ]
