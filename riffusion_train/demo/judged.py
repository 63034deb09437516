"""What is said of the demo's clips by listening to them: by the judge, and by a classifier of their images.

The judge measures the distance to real music beside its scale, and searches for copies. The classifier, fitted on real clips,
labels the generated ones: do they follow their captions?
"""

import dataclasses
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from riffusion_train.config.spectrogram import Quality
from riffusion_train.dataset.cache import CACHE_DIR
from riffusion_train.dataset.layout import TRACK_ID
from riffusion_train.dataset.order import spread
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.demo.report import FigureRow
from riffusion_train.demo.steps import NUM_REAL, SCORES_FILE, DemoFolder
from riffusion_train.listening.captions import Agreement, Labels, measure_agreement
from riffusion_train.listening.distances import TooFewClipsError, kernel_inception_distance
from riffusion_train.listening.embedder import Embedder, make_embedder
from riffusion_train.listening.heard import HeardClip, HeardClips, Unit, hear_units
from riffusion_train.listening.real import DecodedSlices
from riffusion_train.model.loading import open_model
from riffusion_train.model.weights import lazy_fingerprint, load_lazy_model
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.pipeline import Pipeline

# --- the judge -------------------------------------------------------------------------------------------------------

KID = "KID to held-out music, lower is better"
WORDS = "words of the caption that are heard"
COPIES = "clips flagged as copies: nearer to a training slice than real music is"
_ROUND_TRIPS = 64
"""Slices that go through VAE and codec."""
_UNIT_SLICES = 16


@dataclasses.dataclass(frozen=True)
class Judged:
    """The judge's figures of the demo."""

    rows: Sequence[FigureRow] = ()
    """Distance and copies; the reference is real music."""
    words: Sequence[FigureRow] = ()
    """Agreement with the words of the captions; the reference is shuffled captions."""
    notes: Sequence[str] = ()
    """What is left out, and why."""


def judge_demo(folder: DemoFolder, held_out: SpectrogramDataset, trained: SpectrogramDataset) -> Judged:
    """Return the figures of `scores.json` that the demo shows, with the KID of slices that the VAE and the codec have changed.

    Args:
        folder: The demo's folder; its clips have been scored.
        held_out: The split that the clips were compared with.
        trained: The split that copies were searched in; its tracks are not those of the other.
    """
    scored, before = _scored(folder.scores), _scored(folder.scores_before)
    notes = [scored[what]["note"] for what in _SHOWN if scored[what]["ours"] is None and scored[what]["note"]]
    rows, words = [], []
    kid, copies, agreement = (scored[what] for what in _SHOWN)
    if kid["ours"] is not None and kid["reference"] is not None:
        try:
            best = round_trip_kid(folder, held_out, trained)
        except TooFewClipsError as error:
            notes.append(str(error))
        else:
            rows.append(_row(KID, kid["unit"], kid, before.get("kid"), ceiling=best))
    if copies["ours"] is not None:
        rows.append(_row(COPIES, "share of clips, flagged", copies, before.get("copies")))
    if agreement["ours"] is not None:
        words.append(_row(WORDS, "share of words", agreement, before.get("agreement")))
    return Judged(rows, words, list(dict.fromkeys(notes)))


_SHOWN = ("kid", "copies", "agreement")


def _scored(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of scores by what they measure; none where nothing was scored."""
    file = folder / SCORES_FILE
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    return {row["what"]: row for row in rows}


def _row(
    what: str, unit: str, row: dict[str, Any], before: dict[str, Any] | None, ceiling: float | None = None
) -> FigureRow:
    low, high = (row["ours"] if row[name] is None else row[name] for name in ("ours_min", "ours_max"))
    control = row["ours"] if row["reference"] is None else row["reference"]
    return FigureRow(
        what, unit, row["ours"], low, high, control, control, control, ceiling=ceiling,
        before=None if before is None else before["ours"],
    )  # fmt: skip


def round_trip_kid(folder: DemoFolder, held_out: SpectrogramDataset, trained: SpectrogramDataset) -> float:
    """Return the KID of real slices that went through the VAE and the codec: what a perfect UNet would reach.

    They are of the training split, so that no track is compared with itself.

    Raises:
        TooFewClipsError: If there are too few slices.
    """
    embedder = make_embedder("musicnn")
    rows = spread(len(held_out), NUM_REAL)
    cache = held_out.folder.path / CACHE_DIR
    decoded = DecodedSlices(held_out, rows, Quality.normal)
    real = _hear(
        list(decoded.units()), embedder, cache, "listening to the real clips"
    )  # the scores have left them there
    trips = list(_round_trips(folder, trained, spread(len(trained), _ROUND_TRIPS)))
    heard = _hear(trips, embedder, cache, "listening to slices that the VAE has changed")
    return kernel_inception_distance(heard.embeddings, real.embeddings, resamples=0).value


def _hear(units: Sequence[Unit], embedder: Embedder, cache: Path, title: str) -> HeardClips:
    return hear_units(units, embedder, None, cache, title)


def _round_trips(folder: DemoFolder, trained: SpectrogramDataset, rows: Sequence[int]) -> Iterator[Unit]:
    """Yield the work of encoding slices by the VAE, decoding them, and turning them into sound."""
    model = open_model(str(folder.model))
    vae = lazy_fingerprint(model.tensors["vae"])
    tracks = trained.rows[TRACK_ID]
    pipeline: list[Pipeline] = []  # loaded when the first unit is not in the cache

    def load(some: Sequence[int]) -> list[HeardClip | str]:
        if not pipeline:
            pipeline.append(Pipeline(load_lazy_model(model)))
        clips: list[HeardClip | str] = []
        for row in some:
            image = pipeline[0].decode(pipeline[0].encode(trained.image(row)))
            wav = pipeline[0].codec.decode(image, quality=Quality.normal)
            name = f"slice {row}, through the VAE"
            sound = (np.ascontiguousarray(wav, np.float32), pipeline[0].codec.rate_hz)
            clips.append(HeardClip(name, str(tracks[row]), (), sound))
        return clips

    for first in range(0, len(rows), _UNIT_SLICES):
        some = rows[first : first + _UNIT_SLICES]
        key = json.dumps(["round trip", vae, trained.folder.fingerprint, len(trained), list(some)])
        yield Unit(key, len(some), lambda some=some: load(some))  # type: ignore[misc]


# --- the classifier --------------------------------------------------------------------------------------------------

_BAND_GROUPS = 4
_CEPSTRUM = 24
_EDGE_GROUPS = 16
_FRAME_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_TINY = 1e-9

Features = npt.NDArray[np.float64]


def image_features(image: npt.NDArray[np.uint8]) -> Features:
    """Return the features of one spectrogram image.

    Four kinds: mean, spread and 90th percentile of each band; the shape of the average spectrum and of the single frames,
    independent of its position on the frequency axis (autocorrelation and cepstrum); roughness along frequency, and how
    fast sounds rise and fall; and in each of four groups of bands the autocorrelation of the onsets, whose peaks are the
    beats.

    Args:
        image: Grey levels, (height, width): 0 is loud, 255 is silence, the lowest band is the bottom row.

    Returns:
        A vector whose length depends only on the size of the image.

    Raises:
        ValueError: If the image is not two-dimensional, or smaller than 16 pixels on a side.
    """
    if image.ndim != 2 or min(image.shape) < 16:
        raise ValueError(f"a grey image of at least 16 x 16 pixels is needed, not {image.shape}")
    loudness = (255.0 - image[::-1].astype(np.float64)) / 255.0  # (bands, frames), lowest band first
    onsets = np.maximum(0.0, np.diff(loudness, axis=1))
    parts = [loudness.mean(axis=1), loudness.std(axis=1), np.quantile(loudness, 0.9, axis=1)]
    parts += [_spectral_shape(loudness.mean(axis=1)), _spectral_shape(np.quantile(loudness, 0.9, axis=1))]
    parts += [_frame_shapes(loudness), _edges(loudness)]
    for group in np.array_split(onsets, _BAND_GROUPS, axis=0):
        envelope = group.mean(axis=0)
        parts += [_autocorrelation(envelope), np.array([group.mean(), envelope.std()])]
    return np.concatenate(parts)


def _spectral_shape(spectrum: Features) -> Features:
    """Return features of a spectrum (bands,): its shape independent of its pitch, then where its energy lies."""
    # Quantiles of the energy along frequency, then the cepstrum, whose magnitude does not change with a shift in pitch.
    share = np.cumsum(spectrum) / (spectrum.sum() + _TINY)
    positions = np.searchsorted(share, _QUANTILES) / len(spectrum)
    logarithm = np.log(spectrum + 0.02)
    cepstrum = np.abs(np.fft.rfft(logarithm - logarithm.mean()))[1 : _CEPSTRUM + 1] / len(spectrum)
    level = np.array([spectrum.mean(), spectrum.std(), np.abs(np.diff(spectrum)).mean()])
    return np.concatenate([_autocorrelation(spectrum), positions, cepstrum, level])


def _frame_shapes(loudness: Features) -> Features:
    """Return features of the single frames of a spectrogram (bands, frames): mean and spread over time of their shapes."""
    bands = len(loudness)
    # Autocorrelation along frequency of every frame, (lags, frames), and its cepstrum, (24, frames).
    centred = loudness - loudness.mean(axis=0)
    energy = (centred**2).sum(axis=0) + 1e-6
    repeats = np.array([(centred[lag:] * centred[:-lag]).sum(axis=0) / energy for lag in range(1, bands // 2)])
    cepstra = np.abs(np.fft.rfft(centred, axis=0))[1 : _CEPSTRUM + 1] / bands
    # Moments of every frame along frequency, (frames,) each.
    levels = loudness + 1e-3
    positions, total = np.arange(bands)[:, None], levels.sum(axis=0)
    centroid = (positions * levels).sum(axis=0) / total
    width = np.sqrt((((positions - centroid) ** 2) * levels).sum(axis=0) / total)
    flatness = np.exp(np.log(levels).mean(axis=0)) / levels.mean(axis=0)
    tracks = [centroid, width, flatness, levels.max(axis=0), total]
    statistics = [*repeats, *cepstra]
    means, spreads = [np.mean(row) for row in statistics], [np.std(row) for row in statistics]
    return np.concatenate([means, spreads, *(np.quantile(track, _FRAME_QUANTILES) for track in tracks)])


def _edges(loudness: Features) -> Features:
    """Return how fast loudness rises and falls over time, and how much it differs from band to band, by groups of bands."""
    steps = np.diff(loudness, axis=1)
    rises = [np.maximum(0.0, group).mean() for group in np.array_split(steps, _EDGE_GROUPS)]
    falls = [np.maximum(0.0, -group).mean() for group in np.array_split(steps, _EDGE_GROUPS)]
    rough = [np.abs(np.diff(group, axis=0)).mean() for group in np.array_split(loudness, _EDGE_GROUPS // 2)]
    return np.array(rises + falls + rough)


def _autocorrelation(series: Features) -> Features:
    """Return the normalised autocorrelation of a series at lags from 1 to half its length."""
    centred = series - series.mean()
    full = np.correlate(centred, centred, "full")[len(centred) - 1 :]
    return np.asarray(full / (full[0] + _TINY))[1 : len(centred) // 2]


ATTRIBUTES = ("instrument", "drums", "tempo", "register")
"""What is classified; all of it is visible in a spectrogram of 64 x 64 pixels and more."""

_INVERSE_PENALTY = 0.05  # few clips and many correlated features need strong regularisation
_MAX_ITERATIONS = 1000
_BLURS = (1, 3)

Images = Sequence[npt.NDArray[np.uint8]]


class CaptionClassifier:
    """Standardised image features and one logistic regression for each attribute.

    It is fitted on every real clip three times: as it is, blurred a little, and blurred more. Generated images are a little
    soft, and a classifier that was fitted only on sharp ones confuses softness with another instrument.

    Args:
        images: Real clips, grey, all of one size, (height, width) each; loud is dark, low is at the bottom. The model
            must not have been trained on them.
        labels: Their true attributes; these are learned.
        folds: Number of folds of the cross-validation that measures the accuracy.
        seed: Seed of the folds.

    Raises:
        InputError: If scikit-learn is missing, the clips are too few, or an attribute has a single value.
    """

    def __init__(self, images: Images, labels: Labels, folds: int = 5, seed: int = 0) -> None:
        _require_sklearn()
        from sklearn.model_selection import StratifiedKFold

        self._shape = images[0].shape if len(images) else (0, 0)
        self._models: dict[str, Any] = {}
        self.real_accuracy: dict[str, float] = {}
        """Share of correct labels on real clips of other folds, for every attribute."""
        views = self._views(images)
        for attribute in labels:
            targets = np.asarray(labels[attribute])
            values, counts = np.unique(targets, return_counts=True)
            if len(values) < 2 or counts.min() < 2:
                raise InputError(
                    f"{len(images)} real clips are too few to learn '{attribute}': every value needs two; "
                    "prepare a larger held-out share"
                )
            splits = StratifiedKFold(min(folds, int(counts.min())), shuffle=True, random_state=seed)
            predicted = np.empty_like(targets)
            for known, unknown in splits.split(views[0], targets):
                predicted[unknown] = _fit([view[known] for view in views], targets[known]).predict(views[0][unknown])
            self.real_accuracy[attribute] = float(np.mean(predicted == targets))
            self._models[attribute] = _fit(views, targets)

    def predict(self, images: Images) -> dict[str, list[str]]:
        """Return for every attribute its value for each image."""
        features = self._features(images)
        return {name: [str(value) for value in model.predict(features)] for name, model in self._models.items()}

    def accuracy(self, images: Images, labels: Labels) -> dict[str, float]:
        """Return for every attribute the share of images with the right label, from 0 to 1."""
        predicted = self.predict(images)
        return {name: _share(values, labels[name]) for name, values in predicted.items()}

    def agreements(self, images: Images, captions: Labels, shuffles: int = 1000, seed: int = 0) -> list[Agreement]:
        """Compare generated clips with their own captions and with shuffled ones.

        Args:
            images: Generated clips, of the size of the real ones.
            captions: The attributes that their captions ask for.
            shuffles: Number of random orders of the captions.
            seed: Seed of the orders.
        """
        return measure_agreement(self.predict(images), captions, self.real_accuracy, shuffles, seed)

    def _views(self, images: Images) -> list[npt.NDArray[np.float64]]:
        """Return the features of the images as they are and blurred, (images, features) each."""
        views = [self._features(images)]
        for times in _BLURS:
            views.append(self._features([_blurred(image, times) for image in images]))
        return views

    def _features(self, images: Images) -> npt.NDArray[np.float64]:
        odd = next((image.shape for image in images if image.shape != self._shape), None)
        if odd is not None:
            raise InputError(f"an image of {odd} pixels among images of {self._shape}; use one spectrogram preset")
        if not len(images):
            raise InputError("there are no images to classify")
        return np.stack([image_features(image) for image in images])


def _share(predicted: Sequence[str], labels: Sequence[str]) -> float:
    return float(np.mean(np.asarray(predicted) == np.asarray(labels)))


def _fit(views: Sequence[npt.NDArray[np.float64]], labels: npt.NDArray[np.str_]) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MAX_ITERATIONS))
    return classifier.fit(np.concatenate(views), np.tile(labels, len(views)))


def _blurred(image: npt.NDArray[np.uint8], times: int) -> npt.NDArray[np.uint8]:
    """Blur an image with the kernel (1, 2, 1) / 4 in both directions, `times` times over."""
    values = image.astype(np.float64)
    for _ in range(times):
        padded = np.pad(values, 1, mode="edge")
        rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
        values = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
    return np.round(values).astype(np.uint8)


def _require_sklearn() -> None:
    if importlib.util.find_spec("sklearn") is None:
        raise InputError("classifying clips needs the package scikit-learn: pip install 'riffusion-train[demo]'")
