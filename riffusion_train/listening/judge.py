"""The judge: all figures of a set of generated clips against real ones, in one call, without files.

`riffusion evaluate score` and validation during training both use it. A figure that cannot be computed is a row without a
value whose note says why, and `needed` how many clips it would take; no figure is ever computed from too few.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.spatial.distance

from riffusion_train.listening import distances
from riffusion_train.listening.captions import (
    CaptionModel,
    Comparison,
    compare,
    named_key,
    named_tempo,
    retrieval,
    same_tempo,
    win_shares,
)
from riffusion_train.listening.copies import CopySearch, Nearest, TrainingSlices
from riffusion_train.listening.distances import Figure, TooFewClipsError
from riffusion_train.listening.embedder import Clip, Embedder, Heard

FEWEST_NAMED = 8
"""Fewest clips whose captions name a tempo, or a key, for a share of right ones."""
_NEIGHBOURS = 5
_SPLITS = 5
_FALSE_POSITIVES = 0.01

_Matrix = npt.NDArray[np.float64]
_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class JudgedClip:
    """A generated clip.

    Attributes:
        name: A name for messages and pages.
        sound: Samples (channels, samples) and their rate.
        caption: The prompt; None where it is unknown, which leaves out the figures of the captions.
        image: Grey spectrogram image, by the codec of the training slices; None leaves the clip out of the copy search.
        heard: What the embedder hears in it, if known already.
    """

    name: str
    sound: Clip
    caption: str | None = None
    image: npt.NDArray[np.uint8] | None = None
    heard: Heard | None = None


@dataclasses.dataclass(frozen=True)
class Reference:
    """Real music to compare with; the model must not have been trained on it, except for `slices`.

    Attributes:
        heard: What the embedder hears in each real clip.
        captions: All captions of each real clip, an empty list where it has none.
        tracks: The track of each real clip; None takes each for a track of its own.
        slices: What the model was trained on, for the search for copies; None leaves it out.
    """

    heard: Sequence[Heard]
    captions: Sequence[Sequence[str]]
    tracks: Sequence[str] | None = None
    slices: TrainingSlices | None = None


@dataclasses.dataclass(frozen=True)
class ScoreRow:
    """One figure.

    Attributes:
        what: Its name, one of `FIGURES`.
        unit: What it counts.
        value: The figure; None where it is left out.
        low: Lower end of its interval of 95 %; None where none is known.
        high: Upper end.
        control: The same figure where nothing is to be found: for the distances of one half of the real clips to the other,
            for captions in shuffled order, for copies among real music.
        needed: The number of clips that a figure which is left out needs; None if their number is not the reason.
        note: How to read it, or why it is left out.
    """

    what: str
    unit: str
    value: float | None
    low: float | None = None
    high: float | None = None
    control: float | None = None
    needed: int | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain types."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class ClipScores:
    """What is known of one clip.

    Attributes:
        name: The clip's name.
        caption_match: Share of the other clips' captions that fit it less well than its own, from 0 to 1.
        realness: Share of real clips that are further from their real neighbours than this clip is, from 0 to 1.
        nearest: The nearest training slice.
        tempo_bpm: Measured tempo, where the caption names one.
        key: Measured key, where the caption names one.
    """

    name: str
    caption_match: float | None = None
    realness: float | None = None
    nearest: Nearest | None = None
    tempo_bpm: float | None = None
    key: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the scores as plain types."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Scores:
    """All figures of a set of clips, and what is known of each clip, in their order."""

    rows: list[ScoreRow]
    clips: list[ClipScores]

    def row(self, what: str) -> ScoreRow:
        """Return the row of one figure; KeyError without it."""
        return {row.what: row for row in self.rows}[what]

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain types."""
        return {"rows": [row.as_json() for row in self.rows], "clips": [clip.as_json() for clip in self.clips]}


FIGURES = {
    "kid": "squared distance of embeddings",
    "kad": "100 x squared distance of embeddings",
    "fad": "squared distance of embeddings",
    "fad_infinity": "squared distance of embeddings",
    "density": "1 for real music",
    "coverage": "share of real clips",
    "agreement": "balanced share of words",
    "retrieval": "share of clips",
    "clap_score": "cosine",
    "tempo": "share of clips",
    "tempo_multiples": "share of clips",
    "key": "share of clips",
    "copies": "share of clips",
}
"""The figures and their units, in the order of the rows."""


class Judge:
    """Scores sets of clips against one reference; what depends on the reference alone is computed once.

    Args:
        reference: Real music.
        embedder: What heard the reference; it hears the clips too.
        resamples: Number of bootstrap samples for the intervals, and of shuffled orders of the captions.
        seed: Seed of both.
        progress: Called with the number of clips that are judged and the number of clips.
    """

    def __init__(
        self,
        reference: Reference,
        embedder: Embedder,
        *,
        resamples: int = 200,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._embedder, self._resamples, self._seed, self._progress = embedder, resamples, seed, progress
        self._real = _stacked([heard.embedding for heard in reference.heard], embedder.dim)
        self._tracks = [str(i) for i in range(len(self._real))] if reference.tracks is None else list(reference.tracks)
        self._captioned = any(reference.captions)
        self.caption_model = _or_reason(lambda: CaptionModel(self._real, reference.captions, reference.tracks))
        slices = reference.slices
        self.copy_search = None if slices is None else _or_reason(lambda: self._prepared_search(slices))

    def score(self, clips: Sequence[JudgedClip]) -> Scores:
        """Return all figures of a set of clips."""
        embeddings = self._embeddings(clips)
        rows = self._distance_rows(embeddings)
        matches: list[float | None] = [None] * len(clips)
        rows += self._caption_rows(clips, embeddings, matches)
        tempo_rows, tempi, keys = self._measured_rows(clips)
        copies_row, nearest = self._copies(clips, embeddings)
        scored = self._clip_scores(clips, matches, embeddings, nearest, tempi, keys)
        return Scores([*rows, *tempo_rows, copies_row], scored)

    def score_clips(self, clips: Sequence[JudgedClip], caption_matches: Sequence[float | None]) -> list[ClipScores]:
        """Return what is known of each clip by itself, without any figure of the set.

        Args:
            clips: The clips.
            caption_matches: How well each matches its caption, which takes other captions to say.
        """
        embeddings = self._embeddings(clips)
        _, tempi, keys = self._measured_rows(clips)
        _, nearest = self._copies(clips, embeddings)
        return self._clip_scores(clips, caption_matches, embeddings, nearest, tempi, keys)

    def _clip_scores(
        self,
        clips: Sequence[JudgedClip],
        matches: Sequence[float | None],
        embeddings: _Matrix,
        nearest: Sequence[Nearest | None],
        tempi: Sequence[float | None],
        keys: Sequence[str | None],
    ) -> list[ClipScores]:
        realness = self._realness(embeddings)
        return [
            ClipScores(clip.name, matches[i], realness[i], nearest[i], tempi[i], keys[i])
            for i, clip in enumerate(clips)
        ]

    def _prepared_search(self, slices: TrainingSlices) -> CopySearch:
        return CopySearch(slices, false_positives=_FALSE_POSITIVES, seed=self._seed)

    def _embeddings(self, clips: Sequence[JudgedClip]) -> _Matrix:
        unknown = [clip.sound for clip in clips if clip.heard is None]
        fresh = iter(self._embedder.hear(unknown) if unknown else [])
        heard = [next(fresh) if clip.heard is None else clip.heard for clip in clips]
        return _stacked([one.embedding for one in heard], self._embedder.dim)

    def _distance_rows(self, generated: _Matrix) -> list[ScoreRow]:
        """Return the rows of quality and variety."""
        real = self._real
        few = min(len(generated), len(real)) < distances.EXACT_FRECHET_CLIPS
        biased = f"below {distances.EXACT_FRECHET_CLIPS:,} clips compare only sets of the same size" if few else ""
        rows = []
        measures = {"kid": distances.kernel_inception_distance, "kad": distances.kernel_audio_distance}
        for what, measure in measures.items():
            compared = functools.partial(measure, generated, real, resamples=self._resamples, seed=self._seed)
            rows.append(_figure_row(what, compared, self._between_real(measure), "lower is better"))
        rows.append(_figure_row("fad", lambda: distances.frechet_audio_distance(generated, real), None, biased))
        rows.append(
            _figure_row("fad_infinity", lambda: distances.frechet_at_infinity(generated, real, seed=self._seed), None)
        )
        both = _or_reason(lambda: distances.density_coverage(generated, real, neighbours=_NEIGHBOURS))
        if isinstance(both, TooFewClipsError):
            return [*rows, _left_out("density", both), _left_out("coverage", both)]
        expected = distances.expected_coverage(len(generated), len(real), _NEIGHBOURS)
        for what, figure, control in zip(("density", "coverage"), both, (1.0, expected), strict=True):
            rows.append(_row(what, figure, control, "the control is real music of the same number of clips"))
        return rows

    def _between_real(self, measure: Callable[..., Figure]) -> float | None:
        """Return the median distance between two halves of the real tracks; None where they are too few."""
        names, track = np.unique(np.asarray(self._tracks, str), return_inverse=True)
        values = []
        for split in range(_SPLITS):
            order = np.random.default_rng((self._seed, split)).permutation(len(names))
            half = order[track] < len(names) // 2
            try:
                values.append(measure(self._real[half], self._real[~half], resamples=0).value)
            except TooFewClipsError:
                return None
        return float(np.median(values))

    def _caption_rows(
        self, clips: Sequence[JudgedClip], embeddings: _Matrix, matches: list[float | None]
    ) -> list[ScoreRow]:
        """Return the rows of the captions, and fill in how well each clip matches its own."""
        asked = [i for i, clip in enumerate(clips) if clip.caption is not None]
        captions = [clip.caption or "" for clip in clips if clip.caption is not None]
        if not asked:
            return [ScoreRow(what, FIGURES[what], None, note="the clips have no captions") for what in _OF_CAPTIONS]
        rows, heard, model = [], embeddings[asked], self.caption_model
        options = {"shuffles": self._resamples, "resamples": self._resamples, "seed": self._seed}
        no_words = None if self._captioned else "the real clips have no captions"
        if no_words is not None or isinstance(model, TooFewClipsError):
            rows.append(_left_out("agreement", model, no_words))
        else:
            agreement = _or_reason(lambda: model.agreement(heard, captions, **options))
            if isinstance(agreement, TooFewClipsError):
                rows.append(_left_out("agreement", agreement))
            else:
                note = f"real clips reach {agreement[1]:.2f}; the control is captions in shuffled order"
                rows.append(_comparison_row("agreement", agreement[0], note))
        texts = self._embedder.embed_texts(captions)
        if texts is not None:
            fits = _cosines(heard, np.asarray(texts, np.float64))
        elif no_words is not None or isinstance(model, TooFewClipsError):
            return [*rows, _left_out("retrieval", model, no_words), *self._clap_row(None)]
        else:
            fits = model.scores(heard, captions)
        try:
            row = _comparison_row("retrieval", retrieval(fits, captions, **options), "chance is 0.06")
            for i, share in zip(asked, np.diag(win_shares(fits, captions)[1]), strict=True):
                matches[i] = float(share)
        except TooFewClipsError as error:
            row = _left_out("retrieval", error)
        return [*rows, row, *self._clap_row(fits if texts is not None else None)]

    def _clap_row(self, fits: _Matrix | None) -> list[ScoreRow]:
        if fits is None:
            return [
                ScoreRow("clap_score", FIGURES["clap_score"], None, note="needs an embedder of texts: embedder=clap")
            ]
        options = {"shuffles": self._resamples, "resamples": self._resamples, "seed": self._seed}
        score = compare(lambda clips, asked: float(fits[clips, asked].mean()), len(fits), **options)
        return [_comparison_row("clap_score", score, "mean cosine of sound and caption")]

    def _measured_rows(
        self, clips: Sequence[JudgedClip]
    ) -> tuple[list[ScoreRow], list[float | None], list[str | None]]:
        """Return the rows of tempo and key, and both of each clip whose caption names them."""
        tempi: list[float | None] = [None] * len(clips)
        keys: list[str | None] = [None] * len(clips)
        named_tempi = {i: t for i, c in enumerate(clips) if (t := named_tempo(c.caption or "")) is not None}
        named_keys = {i: k for i, c in enumerate(clips) if (k := named_key(c.caption or "")) is not None}
        if named_tempi or named_keys:
            from riffusion_train.listening.attributes import measure_key, measure_tempo  # librosa is slow to import

            for i in named_tempi:
                tempi[i] = measure_tempo(*clips[i].sound)
            for i in named_keys:
                keys[i] = measure_key(*clips[i].sound)
        rows = []
        for what, multiples in (("tempo", (1.0,)), ("tempo_multiples", (1.0, 2.0, 0.5))):
            right = [[_same_tempo(tempi[i], bpm, multiples) for bpm in named_tempi.values()] for i in named_tempi]
            rows.append(self._share_row(what, right, "name a tempo"))
        right = [[keys[i] == key for key in named_keys.values()] for i in named_keys]
        return [*rows, self._share_row("key", right, "name a key")], tempi, keys

    def _share_row(self, what: str, right: Sequence[Sequence[bool]], condition: str) -> ScoreRow:
        """Return the row of a share of right clips, from whether each is right for each caption."""
        if len(right) < FEWEST_NAMED:
            error = TooFewClipsError(what, FEWEST_NAMED, len(right), f"clips whose captions {condition}")
            return _left_out(what, error)
        matrix = np.asarray(right, float)
        options = {"shuffles": self._resamples, "resamples": self._resamples, "seed": self._seed}
        result = compare(lambda clips, asked: float(matrix[clips, asked].mean()), len(matrix), **options)
        return _comparison_row(what, result, f"of {len(matrix)} clips whose captions {condition}")

    def _copies(self, clips: Sequence[JudgedClip], embeddings: _Matrix) -> tuple[ScoreRow, list[Nearest | None]]:
        nearest: list[Nearest | None] = [None] * len(clips)
        search = self.copy_search
        if search is None or isinstance(search, TooFewClipsError):
            return _left_out("copies", search, "needs the training slices"), nearest
        searched = [i for i, clip in enumerate(clips) if clip.image is not None]
        if not searched:
            return ScoreRow("copies", FIGURES["copies"], None, note="the clips have no images"), nearest
        images = [image for clip in clips if (image := clip.image) is not None]
        for i, one in zip(searched, search.find(images, embeddings[searched], self._progress), strict=True):
            nearest[i] = one
        flagged = sum(one is not None and one.is_copy for one in nearest)
        low, high = _share_interval(flagged, len(searched))
        note = f"{flagged} of {len(searched)} clips are more similar to a training slice than real tracks are to others"
        row = ScoreRow(
            "copies", FIGURES["copies"], flagged / len(searched), low, high, control=_FALSE_POSITIVES, note=note
        )
        return row, nearest

    def _realness(self, embeddings: _Matrix) -> list[float | None]:
        """Return the rank of each clip's distance to its real neighbours among those of the real clips."""
        if len(self._real) <= 2 * _NEIGHBOURS:
            return [None] * len(embeddings)
        # The nearest neighbour of a real clip is itself.
        usual = np.sort(_to_neighbour(self._real, self._real, _NEIGHBOURS + 1))
        reached = _to_neighbour(embeddings, self._real, _NEIGHBOURS)
        return [float(1.0 - np.searchsorted(usual, value) / len(usual)) for value in reached]


_OF_CAPTIONS = ("agreement", "retrieval", "clap_score")


def _stacked(embeddings: Sequence[npt.NDArray[np.floating]], dim: int) -> _Matrix:
    return np.asarray(np.stack(embeddings), np.float64) if len(embeddings) else np.empty((0, dim))


def _or_reason(compute: Callable[[], _Result]) -> _Result | TooFewClipsError:
    """Return what `compute` returns, or why there are too few clips for it."""
    try:
        return compute()
    except TooFewClipsError as error:
        return error


def _figure_row(what: str, measure: Callable[[], Figure], control: float | None, note: str = "") -> ScoreRow:
    figure = _or_reason(measure)
    return _left_out(what, figure) if isinstance(figure, TooFewClipsError) else _row(what, figure, control, note)


def _row(what: str, figure: Figure, control: float | None, note: str = "") -> ScoreRow:
    return ScoreRow(what, FIGURES[what], figure.value, figure.low, figure.high, control, note=note)


def _comparison_row(what: str, result: Comparison, note: str) -> ScoreRow:
    return ScoreRow(what, FIGURES[what], result.value, result.low, result.high, result.shuffled, note=note)


def _left_out(what: str, error: object, note: str | None = None) -> ScoreRow:
    """Return the row of a figure that is left out: too few clips, or the reason in `note`."""
    if isinstance(error, TooFewClipsError) and note is None:
        return ScoreRow(what, FIGURES[what], None, needed=error.needed, note=str(error))
    return ScoreRow(what, FIGURES[what], None, note=note or "")


def _same_tempo(measured_bpm: float | None, named_bpm: float, multiples: Sequence[float]) -> bool:
    return measured_bpm is not None and same_tempo(measured_bpm, named_bpm, multiples)


def _to_neighbour(clips: _Matrix, others: _Matrix, rank: int) -> npt.NDArray[np.float64]:
    """Return the distance of each clip to its neighbour of that rank among the others, (clips,)."""
    return np.asarray(np.partition(scipy.spatial.distance.cdist(clips, others), rank - 1, axis=1)[:, rank - 1])


def _cosines(sounds: _Matrix, texts: _Matrix) -> _Matrix:
    lengths = np.linalg.norm(sounds, axis=1)[:, None] * np.linalg.norm(texts, axis=1)[None, :]
    return np.asarray(sounds @ texts.T / np.maximum(lengths, 1e-12))


def _share_interval(hits: int, clips: int) -> tuple[float, float]:
    """Return Wilson's interval of 95 % for a share."""
    z, share = 1.96, hits / clips
    centre = (share + z**2 / (2 * clips)) / (1 + z**2 / clips)
    half = z / (1 + z**2 / clips) * math.sqrt(share * (1 - share) / clips + z**2 / (4 * clips**2))
    return max(0.0, centre - half), min(1.0, centre + half)
