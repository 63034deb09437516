"""The report of the demo: `figures.json`, and one HTML page that opens from disk, with images, players and curves."""

import base64
import dataclasses
import html
import string
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from riffusion_train.audio.plots import curve_image
from riffusion_train.demo.steps import StepResult
from riffusion_train.listening.captions import Agreement
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_atomically
from riffusion_train.runtime.provenance import write_rows

FIGURES_FILE = "figures.json"
PAGE_FILE = "index.html"


@dataclasses.dataclass(frozen=True)
class FigureRow:
    """One measured figure beside its reference: medians, with the minimum and maximum of the repeats."""

    what: str
    unit: str
    ours: float
    ours_min: float
    ours_max: float
    reference: float
    reference_min: float
    reference_max: float
    target: float | None = None
    """The value to reach, if there is one."""
    ceiling: float | None = None
    """What a perfect result would score, if that is known."""
    before: float | None = None
    """The same of the base model, before it was fine-tuned."""

    @property
    def ratio(self) -> float | None:
        """Ours over the reference; None if the reference is 0."""
        return self.ours / self.reference if self.reference else None


def agreement_rows(agreements: Sequence[Agreement], targets: Mapping[str, float] | None = None) -> list[FigureRow]:
    """Return one row for each attribute: agreement of the clips with their own captions, beside shuffled captions."""
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
        path: The file.
        command: The command that made the figures, as a user would type it.
        rows: The figures.
    """
    write_rows(path, command, [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows])


@dataclasses.dataclass(frozen=True)
class Curve:
    """One training curve: its name, and its points (step, loss)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip on the page; paths are relative to the page's folder, with forward slashes."""

    image_path: str
    audio_path: str
    heard: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What the classifier hears in it, attribute by attribute; empty if it was not asked."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A generated clip, and a real clip of the same description that the model has never seen."""

    prompt: str
    expected: Mapping[str, str]
    """The attributes that the prompt asks for."""
    generated: Clip
    real: Clip | None = None
    before: Clip | None = None
    """What the base model made of the prompt, from the same noise."""


@dataclasses.dataclass(frozen=True)
class DemoPage:
    """Everything that the page shows."""

    pairs: Sequence[Pair]
    figures: Sequence[FigureRow]
    """Agreement with the captions; the reference of each row is the agreement with shuffled captions."""
    curves: Sequence[Curve]
    steps: Sequence[StepResult]
    command: str
    """The command that made all of it."""
    facts: Mapping[str, str]
    """Machine, versions, sizes: a name and a value each."""
    judged: Sequence[FigureRow] = ()
    """Figures of the judge; the reference of each row is the same figure of real music."""
    judged_notes: Sequence[str] = ()
    """Figures of the judge that are left out, and why."""
    scores_page: str = ""
    """The page of all scores, relative to this page; empty for none."""
    title: str = "Music from text, trained on this machine"
    base: str | None = None
    """The model that was fine-tuned; None for one that was trained from nothing."""

    @property
    def judged_by_classifier(self) -> bool:
        """Whether a classifier labelled the clips."""
        return any(row.unit == "share of clips" for row in self.figures)


def write_page(folder: Path, page: DemoPage) -> Path:
    """Write `index.html` into `folder` and return its path.

    Raises:
        InputError: If an image or a sound that the page shows is missing.
    """
    for pair in page.pairs:
        for clip in filter(None, (pair.before, pair.generated, pair.real)):
            for name in (clip.image_path, clip.audio_path):
                if not (folder / name).is_file():
                    raise InputError(f"{folder / name}: missing; remove the folder of the demo and run it again")
    template = string.Template((files("riffusion_train.demo") / "static" / "page.html").read_text(encoding="utf-8"))
    static = files("riffusion_train.evaluation") / "static"  # the page of scores looks and plays the same
    text = template.substitute(
        title=_text(page.title),
        style=(static / "page.css").read_text(encoding="utf-8"),
        script=(static / "page.js").read_text(encoding="utf-8"),
        summary=_summary(page),
        listen=_listen(page),
        judged_by="" if page.judged_by_classifier else " hidden",
        tiles="".join(_tile(row) for row in page.figures if row.unit in ("share of clips", "share of words"))
        + "".join(_judged_tile(row) for row in page.judged),
        pairs="".join(_pair(number, pair) for number, pair in enumerate(page.pairs, start=1)),
        figures="".join(_figure_row(row, with_before=page.base is not None) for row in page.figures),
        note_hidden=" hidden" if page.judged_by_classifier else "",
        before_hidden="" if page.base is not None else " hidden",
        table_hidden="" if page.figures else " hidden",
        judged="".join(_judged_row(row, with_before=page.base is not None) for row in page.judged),
        scores_page=_scores_link(page.scores_page),
        judged_hidden="" if page.judged else " hidden",
        judged_notes="".join(f'<p class="quiet">Not measured here: {_text(note)}.</p>' for note in page.judged_notes),
        curves="".join(_curve(curve) for curve in page.curves),
        steps="".join(_step(number, step) for number, step in enumerate(page.steps, start=1)),
        command=_text(page.command),
        total=_text(_duration(sum(step.seconds for step in page.steps))),
        facts="".join(
            f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in page.facts.items()
        ),
    )
    path = folder / PAGE_FILE
    write_atomically(path, text)
    return path


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _summary(page: DemoPage) -> str:
    summary = f"Below are {len(page.pairs)} clips that a small model made from one line of text each."
    if not page.steps:
        return summary
    how = "It was trained from scratch" if page.base is None else f"It is {_text(page.base)}, fine-tuned on new music"
    duration = _text(_duration(sum(step.seconds for step in page.steps)))
    return f"{summary} {how}, in {duration} in total, by the steps at the end of this page."


def _listen(page: DemoPage) -> str:
    """Return what stands beside what."""
    real = "a real clip with the same description that the model has never seen: it is not meant to be the same music, only "
    if page.base is None:
        return f"Left, what the model made from the text. Right, {real}the same kind."
    return (
        f"First, what {_text(page.base)} made from the text before it was fine-tuned. Then, from the same noise, what it "
        f"makes now. Last, {real}the same kind."
    )


def _tile(row: FigureRow) -> str:
    name = row.what.split()[0]
    return (
        f'<li><span class="tile-name">{_text(name)}</span><strong>{_percent(row.ours)}</strong>'
        f'<span class="tile-note">{_before(row, _percent)}{_percent(row.reference)} with shuffled captions</span></li>'
    )


def _before(row: FigureRow, show: Callable[[float], str]) -> str:
    return "" if row.before is None else f"{show(row.before)} before, "


def _before_cell(row: FigureRow, show: Callable[[float], str]) -> str:
    return f'<td data-name="before">{"–" if row.before is None else show(row.before)}</td>'


def _pair(number: int, pair: Pair) -> str:
    panes = "" if pair.before is None else _pane("Before", pair.prompt, pair.before, pair.expected)
    panes += _pane("Generated" if pair.before is None else "After", pair.prompt, pair.generated, pair.expected)
    if pair.real is not None:
        panes += _pane("Real", pair.prompt, pair.real, pair.expected)
    return (
        f'<article class="pair" aria-labelledby="prompt-{number}"><h3 id="prompt-{number}">{_text(pair.prompt)}</h3>'
        f'<div class="panes">{panes}</div></article>'
    )


def _pane(label: str, prompt: str, clip: Clip, expected: Mapping[str, str]) -> str:
    spoken = _text(f"{label}: {prompt}")
    return (
        f'<figure class="clip" data-label="{spoken}">'
        f'<div class="image"><img src="{_url(clip.image_path)}" alt="Spectrogram. {spoken}" decoding="async">'
        '<span class="playhead" hidden></span></div>'
        f'<figcaption><span class="label">{_text(label)}</span></figcaption>'
        f'<audio controls preload="metadata" src="{_url(clip.audio_path)}" aria-label="{spoken}"></audio>'
        f"{_verdicts(clip.heard, expected)}</figure>"
    )


def _verdicts(heard: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Return what the classifier hears as a row of small marks; a wrong one names both values."""
    if not heard:
        return ""
    marks = []
    for name, value in heard.items():
        right = expected.get(name) == value
        state, sign, note = ("right", "✓", "as asked") if right else ("wrong", "✗", f"asked for {expected.get(name)}")
        marks.append(
            f'<li class="{state}" title="{_text(f"{name}: {value}, {note}")}"><span aria-hidden="true">{sign}</span> '
            f'{_text(_as_heard(name, value))}<span class="spoken">, {_text(note)}</span></li>'
        )
    return f'<ul class="verdicts" aria-label="What the classifier hears">{"".join(marks)}</ul>'


def _as_heard(name: str, value: str) -> str:
    """Return a value that is clear without its name: `none` becomes `no drums`, `low` becomes `low register`."""
    if value == "none":
        return f"no {name}"
    return f"{value} {name}" if name in ("register", "tempo") else value


def _figure_row(row: FigureRow, *, with_before: bool) -> str:
    is_share = row.unit.startswith("share") and 0 <= row.ours <= 1
    show = _percent if is_share else _plain
    unit = "" if is_share else f" {_text(row.unit)}"
    target = "–" if row.target is None else f"≥ {show(row.target)}"
    if row.target is not None:
        met = row.ours >= row.target
        target += f' <span class="{"right" if met else "wrong"}">{"met" if met else "missed"}</span>'
    ratio = "–" if row.ratio is None else f"{row.ratio:.1f}×"
    spread = "" if row.reference_min == row.reference_max else f"{show(row.reference_min)}–{show(row.reference_max)}"
    return (
        f'<tr><th scope="row">{_text(row.what)}{_bar(row) if is_share else ""}</th>'
        f"{_before_cell(row, show) if with_before else ''}"
        f'<td data-name="this model"><strong>{show(row.ours)}</strong>{unit}</td>'
        f'<td data-name="shuffled captions">{show(row.reference)}{unit}<small>{spread}</small></td>'
        f'<td data-name="ratio">{ratio}</td><td data-name="target">{target}</td>'
        f'<td data-name="real clips">{"–" if row.ceiling is None else show(row.ceiling)}</td></tr>'
    )


def _judged_tile(row: FigureRow) -> str:
    is_share = row.unit.startswith("share")
    name = "copies" if is_share else row.what.split()[0]
    note = (
        f"{_percent(row.reference)} to expect by chance" if is_share else f"{_distance(row.reference)} for real music"
    )
    if row.ceiling is not None:
        note = f"{_distance(row.ceiling)} at best, {note}"
    note = _before(row, _percent if is_share else _distance) + note
    return (
        f'<li><span class="tile-name">{_text(name)}</span><strong>{(_percent if is_share else _distance)(row.ours)}</strong>'
        f'<span class="tile-note">{note}</span></li>'
    )


def _judged_row(row: FigureRow, *, with_before: bool) -> str:
    show = _percent if row.unit.startswith("share") else _distance
    best = "–" if row.ceiling is None else show(row.ceiling)
    interval = f"{show(row.ours_min)} to {show(row.ours_max)}"
    return (
        f'<tr><th scope="row">{_text(row.what)}</th>'
        f"{_before_cell(row, show) if with_before else ''}"
        f'<td data-name="this model"><strong>{show(row.ours)}</strong><small>{interval}</small></td>'
        f'<td data-name="through VAE and codec">{best}</td><td data-name="real music">{show(row.reference)}</td></tr>'
    )


def _scores_link(page: str) -> str:
    if not page:
        return ""
    text = "All figures, the copies beside their training slices, best and worst clips"
    return f'<p class="legend">{text}: <a href="{_url(page)}">the page of scores</a></p>'


def _bar(row: FigureRow) -> str:
    def mark(kind: str, share: float) -> str:
        return f'<i class="{kind}" style="left:{100 * min(max(share, 0), 1):.1f}%"></i>'

    marks = mark("target", row.target) if row.target is not None else ""
    marks += mark("ceiling", row.ceiling) if row.ceiling is not None else ""
    return (
        f'<span class="bar" aria-hidden="true"><b class="ours" style="width:{100 * row.ours:.1f}%"></b>'
        f'<b class="chance" style="width:{100 * row.reference:.1f}%"></b>{marks}</span>'
    )


def _curve(curve: Curve) -> str:
    png = curve_image(curve.points)
    if png is None:
        drawing = '<p class="empty">too few points for a curve</p>'
    else:
        (first_step, first), (last_step, last) = min(curve.points), max(curve.points)
        alt = f"{curve.name}: from {first:.4g} at step {first_step:g} to {last:.4g} at step {last_step:g}"
        source = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
        drawing = f'<img class="curve" src="{source}" alt="{_text(alt)}">'
    return f"<figure><figcaption>{_text(curve.name)}</figcaption>{drawing}</figure>"


def _step(number: int, step: StepResult) -> str:
    return (
        f'<li><div class="step-head"><h3>{number}. {_text(step.name)}</h3>'
        f'<p>{_text(_duration(step.seconds))} <span aria-hidden="true">·</span> {step.peak_mb:,.0f} MB</p></div>'
        f'<div class="command"><pre tabindex="0"><code>{_text(step.command)}</code></pre></div></li>'
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _distance(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _plain(value: float) -> str:
    return f"{value:,.4g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _url(path: str) -> str:
    return _text(quote(path))
