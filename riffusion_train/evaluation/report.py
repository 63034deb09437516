"""The page of scores: figures in plain words, pictures of the distributions, copies, best and worst clips with players."""

import base64
import dataclasses
import html
import string
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import numpy as np

from riffusion_train.audio.plots import compared_histogram_image, scatter_image
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.evaluation.results import (
    SCORES_FILE,
    CopyPair,
    Evaluation,
    Exhibit,
    Exhibits,
    Ranking,
    ResultRow,
    shown,
)
from riffusion_train.listening.distances import MEANINGS, Meaning
from riffusion_train.listening.heard import MEASURES, HeardClips
from riffusion_train.runtime.files import content_policy, write_atomically
from riffusion_train.runtime.provenance import machine, versions

_GROUPS = (
    (
        "quality",
        "Is it like real music?",
        "Each figure compares the clips as a set with the real ones, as the embedder hears them.",
    ),
    (
        "words",
        "Does it follow its captions?",
        "Each figure is beside the same with the captions shuffled; a model that ignores its captions scores the same in both.",
    ),
    ("copies", "Does it copy?", "Each clip was searched in the training slices, shifted in time and transposed."),
)
_PLAIN = Meaning("", "quality", "", "", "")


@dataclasses.dataclass(frozen=True)
class ScorePage:
    """Everything that the page shows."""

    evaluation: Evaluation
    title: str
    command: str
    """The command that made it, or empty."""
    generated: HeardClips
    real: HeardClips
    trained: SpectrogramDataset | None = None
    """The split in which copies were searched, if they were."""
    search_rows: Sequence[int] = ()
    """Its rows in the order of the search."""


def write_page(page: ScorePage) -> Path:
    """Write `index.html` into the folder of the evaluation, and what it plays into `listen/`; return its path.

    Raises:
        InputError: If a sound or an image cannot be read or written.
    """
    evaluation = page.evaluation
    exhibits = Exhibits(evaluation.out, page.trained, page.search_rows)
    copies, rankings = exhibits.copies(evaluation.clips), exhibits.rankings(evaluation.clips)
    static = files("riffusion_train.evaluation") / "static"

    def read(name: str) -> str:
        return (static / name).read_text(encoding="utf-8")

    style, script = read("page.css") + read("score.css"), read("page.js")
    about = evaluation.about
    text = string.Template(read("score.html")).substitute(
        title=_text(page.title),
        policy=content_policy(style, script),
        style=style,
        script=script,
        summary=_text(f"{about['num_clips']} clips from {about['clips']}, against {about['num_real']} real ones."),
        tiles="".join(_tile(row) for row in evaluation.rows if row.what in ("kid", "agreement", "retrieval", "copies")),
        warnings=_warnings(evaluation.warnings),
        groups="".join(_group(*group, evaluation.rows) for group in _GROUPS),
        sound="".join(_sound_row(row) for row in evaluation.rows if row.what in _MEASURES),
        pictures=_pictures(page),
        copies_hidden="" if copies else " hidden",
        copies="".join(_copy_pair(number, pair) for number, pair in enumerate(copies, start=1)),
        rankings_hidden="" if rankings else " hidden",
        rankings="".join(_ranking(number, ranking) for number, ranking in enumerate(rankings, start=1)),
        command_hidden="" if page.command else " hidden",
        command=_text(page.command),
        facts="".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in _facts(page)),
        scores_file=SCORES_FILE,
    )
    write_atomically(evaluation.page, text)
    return evaluation.page


_MEASURES = {measure.name: measure for measure in MEASURES}


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def unbroken(text: str) -> str:
    """Return a text whose lines do not end between a number and its per cent sign."""
    return text.replace(" %", "\u00a0%")


def _url(path: str) -> str:
    return _text(quote(path))


def _meaning(row: ResultRow) -> Meaning:
    """Return the explanation of a row; its name may go on behind a comma."""
    return MEANINGS.get(row.what.partition(",")[0], _PLAIN)


def _value(value: float | None, meaning: Meaning) -> str:
    if value is not None and meaning.is_share:
        return f"{100 * value:.0f} %" if value >= 0.1 or value == 0 else f"{100 * value:.1f} %"
    return shown(value)


def _tile(row: ResultRow) -> str:
    meaning = _meaning(row)
    control = f"{meaning.control}: {_value(row.reference, meaning)}" if row.reference is not None else meaning.better
    return (
        f'<li><span class="tile-name">{_text(row.label)}</span><strong>{_value(row.ours, meaning)}</strong>'
        f'<span class="tile-note">{unbroken(_text(control))}</span></li>'
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    return f'<ul class="warnings" aria-label="Notes">{"".join(f"<li>{_text(one)}</li>" for one in warnings)}</ul>'


def _group(group: str, title: str, lede: str, rows: Sequence[ResultRow]) -> str:
    mine = [row for row in rows if row.what not in _MEASURES and _meaning(row).group == group]
    if not mine:
        return ""
    return (
        f'<section class="wide" id="{group}"><h2>{_text(title)}</h2><p>{_text(lede)}</p><table><thead><tr>'
        '<th scope="col">Figure</th><th scope="col">clips</th><th scope="col">interval</th><th scope="col">control</th>'
        f"</tr></thead><tbody>{''.join(_figure_row(row) for row in mine)}</tbody></table></section>"
    )


def _figure_row(row: ResultRow) -> str:
    meaning = _meaning(row)
    if row.ours is None:
        needed = f"needs {row.needed} clips" if row.needed is not None else "not measured"
        value = f'<span class="quiet">{needed}</span>'
    else:
        value = (
            f"<strong>{_value(row.ours, meaning)}</strong><small>{_text('' if meaning.is_share else row.unit)}</small>"
        )
    has_interval = row.ours_min is not None and row.ours_max is not None
    interval = f"{_value(row.ours_min, meaning)} to {_value(row.ours_max, meaning)}" if has_interval else "–"
    control = _value(row.reference, meaning)
    if row.reference is not None:
        control += f"<small>{_text(meaning.control)}</small>"
    return (
        f'<tr><th scope="row"><span class="figure">{_text(row.label)}</span> <em>{_text(meaning.better)}</em>'
        f"<span>{_text(meaning.meaning)}</span>{_trap(meaning)}{_note(row.note, meaning)}</th>"
        f'<td data-name="clips">{value}</td><td data-name="interval">{interval}</td>'
        f'<td data-name="control">{control}</td></tr>'
    )


def _trap(meaning: Meaning) -> str:
    if not meaning.trap:
        return ""
    paper = f" {_text(meaning.paper)}." if meaning.paper else ""
    return f"<details><summary>What to mind</summary><p>{_text(meaning.trap)}{paper}</p></details>"


def _note(note: str, meaning: Meaning) -> str:
    return f'<span class="note">{_text(note)}</span>' if note and note != meaning.better else ""


def _sound_row(row: ResultRow) -> str:
    measure = _MEASURES[row.what]

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:,.{measure.decimals}f}".replace("-", "−")

    def cell(middle: float | None, low: float | None, high: float | None) -> str:
        spread = "" if middle is None else f"<small>{number(low)} to {number(high)}</small>"
        return f"{number(middle)}{spread}"

    return (
        f'<tr><th scope="row"><span class="figure">{_text(row.label)}</span> <em>{_text(measure.unit)}</em>'
        f"<span>{_text(measure.meaning)}</span></th>"
        f'<td data-name="clips"><strong>{cell(row.ours, row.ours_min, row.ours_max)}</strong></td>'
        f'<td data-name="real">{cell(row.reference, row.reference_min, row.reference_max)}</td></tr>'
    )


def principal_axes(ours: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two sets of embeddings, (n, dim) each, on the two axes of their largest common variance, (n, 2) each."""
    every = np.concatenate([ours, reference]).astype(np.float64)
    centred = every - every.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes[:2].T
    plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))  # of one clip, or of one dimension, there is one axis
    return plane[: len(ours)], plane[len(ours) :]


def _pictures(page: ScorePage) -> str:
    ours, reference = principal_axes(page.generated.embeddings, page.real.embeddings)
    pictures = [
        picture(
            scatter_image([(x, y) for x, y in ours], [(x, y) for x, y in reference]),
            "What the embedder hears",
            f"{len(ours)} clips (blue) among {len(reference)} real ones (grey), on the two axes along which all of them "
            "differ most. Clips apart from the grey are unlike real music; grey without blue is music that is not made.",
        )
    ]
    for measure in MEASURES:
        values, real = (
            [value for one in group if (value := getattr(one, measure.name)) is not None]
            for group in (page.generated.sounds, page.real.sounds)
        )
        if len(set(values)) > 1:
            png = compared_histogram_image(f"{measure.label}, {measure.unit}", values, real)
            title = measure.label[:1].upper() + measure.label[1:]
            pictures.append(picture(png, title, "The clips as a line, the real ones filled."))
    return "".join(pictures)


def picture(png: bytes | None, title: str, text: str) -> str:
    """Return a plot with its title and explanation, as HTML; nothing where there is no plot."""
    if png is None:
        return ""
    source = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img class="curve" src="{source}" alt="{_text(f"{title}. {text}")}">'
        f"<figcaption>{_text(title)}<span>{_text(text)}</span></figcaption></figure>"
    )


def _copy_pair(number: int, pair: CopyPair) -> str:
    verdict = "Flagged as a copy" if pair.is_copy else "Not flagged"
    state = "wrong" if pair.is_copy else "right"
    return (
        f'<article class="pair" aria-labelledby="copy-{number}"><h3 id="copy-{number}">{_text(pair.clip.text)}</h3>'
        f'<p class="verdict"><span class="{state}">{verdict}</span> {unbroken(_text(pair.facts))}</p>'
        f'<div class="panes">{pane(pair.clip)}{pane(pair.slice)}</div></article>'
    )


def _ranking(number: int, ranking: Ranking) -> str:
    ends = []
    for label, exhibits in ((ranking.best_label, ranking.best), (ranking.worst_label, ranking.worst)):
        panes = "".join(pane(one, shows_text=True) for one in exhibits)
        ends.append(f'<div class="end"><h4>{_text(label)}</h4><div class="row">{panes}</div></div>')
    return (
        f'<article class="ranking" aria-labelledby="ranking-{number}"><h3 id="ranking-{number}">{_text(ranking.title)}</h3>'
        f"<p>{_text(ranking.meaning)}</p>{''.join(ends)}</article>"
    )


def pane(exhibit: Exhibit, *, shows_text: bool = False) -> str:
    """Return a clip with its image and its player, as HTML."""
    spoken = _text(f"{exhibit.label}: {exhibit.text}")
    head = f'<span class="label">{_text(exhibit.label)}</span>' if not shows_text else ""
    head += f'<strong class="score">{_text(exhibit.note)}</strong>' if exhibit.note else ""
    text = f'<p class="text">{_text(exhibit.text)}</p>' if shows_text or exhibit.label == "Training slice" else ""
    return (
        f'<figure class="clip" data-label="{spoken}"><div class="image">'
        f'<img src="{_url(exhibit.image_path)}" alt="Spectrogram. {spoken}" decoding="async" loading="lazy">'
        f'<span class="playhead" hidden></span></div><figcaption>{head}</figcaption>'
        f'<audio controls preload="none" src="{_url(exhibit.audio_path)}" aria-label="{spoken}"></audio>{text}</figure>'
    )


def _facts(page: ScorePage) -> list[tuple[str, object]]:
    about, hardware, packages = page.evaluation.about, machine(), versions()
    facts: list[tuple[str, object]] = [
        ("clips", f"{about['num_clips']} from {about['clips']}"),
        ("real", f"{about['num_real']} from {about['real']}"),
        ("embedder", " ".join(filter(None, [about["embedder"], about["embedder_source"]]))),
    ]
    if about["slices_searched"]:
        facts.append(("training slices searched", f"{about['slices_searched']:,}"))
    facts.append(("machine", f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB"))
    facts.append(("software", ", ".join(f"{name} {packages[name]}" for name in ("riffusion-train", "python", "torch"))))
    return facts
