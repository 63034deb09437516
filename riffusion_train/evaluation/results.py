"""What a scoring found: its figures as rows, as `scores.json`, as a table for the terminal; and the clips worth playing.

Which clips a page shows follows from their scores; their sound and image lie as files beside the page.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from riffusion_train.audio.codec import EncodedClip, make_codec
from riffusion_train.audio.image_file import load_image, save_image
from riffusion_train.audio.read import read_audio, resample
from riffusion_train.audio.write import write_audio
from riffusion_train.config.spectrogram import Quality, load_preset
from riffusion_train.dataset.layout import CAPTION, MAX_VALUE
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.evaluation.clips import ClipFile
from riffusion_train.listening.distances import MEANINGS
from riffusion_train.listening.heard import MEASURES, SoundMeasures
from riffusion_train.listening.judge import ClipScores, Scores
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import link_or_copy
from riffusion_train.runtime.provenance import write_rows

# --- figures ---------------------------------------------------------------------------------------------------------

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


# --- clips to show ---------------------------------------------------------------------------------------------------

LISTEN_DIR = "listen"
_PLAYED = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a")
"""Files that browsers play as they are."""
_EACH = 3
"""Clips at either end of a score."""
_COPIES = 8
_IMAGE_PRESET = "small"
"""Of the images of sounds that have none."""
_LONGEST_PX = 1024


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """A sound on the page; paths are relative to the page, with forward slashes."""

    label: str
    """What it is, in a word or two."""
    text: str
    """Its caption or its source."""
    audio_path: str
    image_path: str
    note: str = ""
    """Its score."""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The clips at both ends of one score."""

    title: str
    meaning: str
    best: Sequence[Exhibit]
    worst: Sequence[Exhibit]
    best_label: str = "best"
    worst_label: str = "worst"


@dataclasses.dataclass(frozen=True)
class CopyPair:
    """A clip and the training slice that is most like it."""

    clip: Exhibit
    slice: Exhibit
    is_copy: bool
    facts: str


@dataclasses.dataclass(frozen=True)
class _Score:
    title: str
    meaning: str
    value: Callable[[ScoredClip], float | None]
    unit: str
    decimals: int
    labels: tuple[str, str] = ("best", "worst")
    """Of high values, then of low ones."""


_SCORES = (
    _Score(
        "Follows its caption", "The share of the other captions that fit the clip less well than its own.",
        lambda clip: clip.scores.caption_match, "", 2,
    ),
    _Score(
        "Like real music", "How typical the clip is among the real ones: 1 is in their midst, 0 is outside.",
        lambda clip: clip.scores.realness, "", 2,
    ),
    _Score(
        "Repetition", "How exactly the clip repeats itself after a second or more.",
        lambda clip: clip.sound.repetition, "", 2, ("most", "least"),
    ),
    _Score(
        "Bandwidth", "The highest frequency that holds energy.",
        lambda clip: clip.sound.bandwidth_hz, " Hz", 0, ("brightest", "dullest"),
    ),
    _Score(
        "Silence", "The share of the clip that is silent.",
        lambda clip: clip.sound.silent_share or None, "", 2, ("most", "least"),
    ),
)  # fmt: skip


class Exhibits:
    """Writes the sounds and images of a page into its folder, each once.

    Args:
        out: The page's folder.
        trained: The split that holds the nearest slices; None where copies were not searched.
        search_rows: Its rows in the order of the search.
    """

    def __init__(self, out: Path, trained: SpectrogramDataset | None, search_rows: Sequence[int]) -> None:
        self._out, self._trained, self._rows = out, trained, search_rows
        config = load_preset(_IMAGE_PRESET) if trained is None else trained.folder.spectrogram
        self._codec = make_codec(config)

    def rankings(self, clips: Sequence[ScoredClip]) -> list[Ranking]:
        """Return both ends of every score that at least four clips have, and that differs between them."""
        found = []
        for score in _SCORES:
            valued = [(value, number) for number, clip in enumerate(clips) if (value := score.value(clip)) is not None]
            if len(valued) < 4 or len({value for value, _ in valued}) < 2:
                continue
            valued.sort(key=lambda one: (-one[0], one[1]))
            each = min(_EACH, len(valued) // 2)
            ends = [
                [
                    self._clip(clips[number], number, label, f"{value:,.{score.decimals}f}{score.unit}")
                    for value, number in part
                ]
                for part, label in zip((valued[:each], valued[: -each - 1 : -1]), score.labels, strict=True)
            ]
            found.append(Ranking(score.title, score.meaning, ends[0], ends[1], *score.labels))
        return found

    def copies(self, clips: Sequence[ScoredClip]) -> list[CopyPair]:
        """Return the clips that are most like a training slice, flagged ones first, each beside that slice."""
        if self._trained is None:
            return []
        found = [(clip.scores.nearest, number) for number, clip in enumerate(clips) if clip.scores.nearest is not None]
        found.sort(key=lambda one: (not one[0].is_copy, -one[0].similarity, one[1]))
        pairs = []
        for nearest, number in found[:_COPIES]:
            facts = [f"similarity {nearest.similarity:.2f}"]
            facts += [f"shifted by {nearest.shift_s:+.2f} s"] if abs(nearest.shift_s) >= 0.01 else []
            if nearest.transposition:
                facts.append(
                    f"transposed by {nearest.transposition:+d} semitone{'s' * (abs(nearest.transposition) > 1)}"
                )
            facts.append(f"more alike than {_share(nearest.quantile)} of real slices are to any other track")
            pairs.append(
                CopyPair(
                    self._clip(clips[number], number, "Generated", ""),
                    self._slice(self._rows[nearest.slice]),
                    bool(nearest.is_copy),
                    ", ".join(facts),
                )
            )
        return pairs

    def _clip(self, clip: ScoredClip, number: int, label: str, note: str) -> Exhibit:
        suffix = clip.file.audio.suffix.lower()
        stem = self._out / LISTEN_DIR / f"clip-{number:04d}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        audio = stem.with_suffix(suffix if suffix in _PLAYED else ".wav")
        image = stem.with_suffix(".png")
        sound = None
        for file in (audio, image):
            file.unlink(missing_ok=True)  # of an earlier score of other clips
        if suffix in _PLAYED:
            link_or_copy(clip.file.audio, audio)
        else:
            sound = read_audio(clip.file.audio)
            write_audio(audio, *sound)
        if clip.file.image is not None and _readable(clip.file.image):
            link_or_copy(clip.file.image, image)
        else:
            self._draw(image, *(sound or read_audio(clip.file.audio)))
        text = clip.file.captions[0] if clip.file.captions else clip.file.name
        return Exhibit(label, text, f"{LISTEN_DIR}/{audio.name}", f"{LISTEN_DIR}/{image.name}", note)

    def _slice(self, row: int) -> Exhibit:
        assert self._trained is not None
        stem = self._out / LISTEN_DIR / f"slice-{row:06d}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        audio, image_file = stem.with_suffix(".wav"), stem.with_suffix(".png")
        about = self._trained.rows.select_columns([CAPTION, MAX_VALUE])[row]
        image, max_value = self._trained.image(row), float(about[MAX_VALUE] or 0.0)
        save_image(image_file, EncodedClip(image, max_value), self._codec.config)
        write_audio(audio, self._codec.decode(image, max_value, quality=Quality.normal), self._codec.rate_hz)
        captions = about[CAPTION] or [""]
        text = f"{self._trained.slice_name(row)}: {captions[0]}"
        return Exhibit("Training slice", text, f"{LISTEN_DIR}/{audio.name}", f"{LISTEN_DIR}/{image_file.name}")

    def _draw(self, path: Path, wav: np.ndarray, rate_hz: int) -> None:
        encoded = self._codec.encode_long(resample(wav[:, : 60 * rate_hz], rate_hz, self._codec.rate_hz))
        step = max(1, math.ceil(encoded.image.shape[1] / _LONGEST_PX))
        save_image(path, EncodedClip(np.ascontiguousarray(encoded.image[:, ::step]), 0.0), self._codec.config)


def _readable(path: Path) -> bool:
    try:
        load_image(path, use_description=False)
    except InputError:
        return False
    return True


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"
