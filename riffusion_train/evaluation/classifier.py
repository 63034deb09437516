"""Does a model follow its captions? A classifier fitted on real clips judges the generated ones."""

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from riffusion_train.runtime.errors import InputError

_BAND_GROUPS = 4
_CEPSTRUM = 24
_EDGE_GROUPS = 16
_FRAME_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_TINY = 1e-9

Features = npt.NDArray[np.float64]


def image_features(image: npt.NDArray[np.uint8]) -> Features:
    """Describe one spectrogram image.

    Four kinds of numbers: how loud each band is on average, how much it changes, and how loud it is at its loudest; the
    shape of the average spectrum, and of the single frames, wherever on the frequency axis it lies (autocorrelation and
    cepstrum); how rough the picture is along frequency and how fast sounds begin and die away; and in each of four groups
    of bands the autocorrelation of the onsets, whose peaks are the beats.

    Args:
        image: Grey levels, shape (height, width): 0 is loud, 255 is silence, the lowest band is the bottom row.

    Returns:
        A vector whose length depends on the size of the image only.

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
    """Describe a spectrum (bands,) independently of its pitch, then where on the axis its energy lies."""
    share = np.cumsum(spectrum) / (spectrum.sum() + _TINY)
    places = np.searchsorted(share, _QUANTILES) / len(spectrum)
    logarithm = np.log(spectrum + 0.02)
    cepstrum = np.abs(np.fft.rfft(logarithm - logarithm.mean()))[1 : _CEPSTRUM + 1] / len(spectrum)
    level = np.array([spectrum.mean(), spectrum.std(), np.abs(np.diff(spectrum)).mean()])
    return np.concatenate([_autocorrelation(spectrum), places, cepstrum, level])


def _frame_shapes(loudness: Features) -> Features:
    """Describe the frames of a spectrogram (bands, frames) one by one: mean and spread over time of their shapes."""
    bands = len(loudness)
    centred = loudness - loudness.mean(axis=0)
    energy = (centred**2).sum(axis=0) + 1e-6
    repeats = np.array([(centred[lag:] * centred[:-lag]).sum(axis=0) / energy for lag in range(1, bands // 2)])
    cepstra = np.abs(np.fft.rfft(centred, axis=0))[1 : _CEPSTRUM + 1] / bands
    levels = loudness + 1e-3
    places, total = np.arange(bands)[:, None], levels.sum(axis=0)
    centroid = (places * levels).sum(axis=0) / total
    width = np.sqrt((((places - centroid) ** 2) * levels).sum(axis=0) / total)
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
"""What is judged, all of it visible in a spectrogram of 64 x 64 pixels and more."""

_INVERSE_PENALTY = 0.05  # few clips and many correlated features want a strong penalty
_MAX_ITERATIONS = 1000
_SOFTENINGS = (1, 3)

Images = Sequence[npt.NDArray[np.uint8]]
Labels = Mapping[str, Sequence[str]]
"""For every attribute, its value for each image."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How often the judge hears in the generated clips what their captions ask for; all shares are from 0 to 1."""

    attribute: str
    agreement: float
    """With its own caption."""
    shuffled: float
    """With the captions in shuffled order: the median of all shuffles."""
    shuffled_min: float
    shuffled_max: float
    real: float
    """The judge's own accuracy on real clips that it was not fitted on: what a perfect model could reach."""
    clips: int
    """Number of generated clips."""


class CaptionClassifier:
    """Standardised picture features and one logistic regression an attribute.

    It learns from every real clip three times: as it is, softened a little, and softened more. A generated picture is a
    little soft whatever it shows, and a judge that has seen sharp ones only takes softness for another instrument.

    Args:
        images: Real clips, grey, all of one size, (height, width) each; loud is dark, low is at the bottom. They must be
            clips that the judged model was not trained on.
        labels: Their true attributes.
        folds: Number of folds of the cross-validation that tells how good the judge is.
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
        """Share of right verdicts on real clips of other folds, as they are, for every attribute."""
        views = self._views(images)
        for attribute in ATTRIBUTES:
            wanted = np.asarray(labels[attribute])
            values, counts = np.unique(wanted, return_counts=True)
            if len(values) < 2 or counts.min() < 2:
                raise InputError(
                    f"{len(images)} real clips are too few to learn '{attribute}' from: every value needs two; "
                    "prepare a larger held-out share"
                )
            splits = StratifiedKFold(min(folds, int(counts.min())), shuffle=True, random_state=seed)
            verdicts = np.empty_like(wanted)
            for known, unknown in splits.split(views[0], wanted):
                verdicts[unknown] = _fit([view[known] for view in views], wanted[known]).predict(views[0][unknown])
            self.real_accuracy[attribute] = float(np.mean(verdicts == wanted))
            self._models[attribute] = _fit(views, wanted)

    def predict(self, images: Images) -> dict[str, list[str]]:
        """Return what the judge hears: for every attribute, its value for each image."""
        features = self._features(images)
        return {name: [str(value) for value in model.predict(features)] for name, model in self._models.items()}

    def judge(self, images: Images, wanted: Labels) -> dict[str, float]:
        """Return for every attribute the share of images in which the judge hears what was wanted, from 0 to 1."""
        heard = self.predict(images)
        return {name: _share(heard[name], wanted[name]) for name in ATTRIBUTES}

    def listen(self, images: Images, wanted: Labels, shuffles: int = 1000, seed: int = 0) -> list[Agreement]:
        """Judge generated clips against their own captions and against shuffled ones.

        Args:
            images: Generated clips, of the size of the real ones.
            wanted: The attributes that their captions ask for.
            shuffles: Number of random orders of the captions.
            seed: Seed of the orders.
        """
        return measure_agreement(self.predict(images), wanted, self.real_accuracy, shuffles, seed)

    def _views(self, images: Images) -> list[npt.NDArray[np.float64]]:
        """Return the features of the images as they are and of their softened forms, (images, features) each."""
        views = [self._features(images)]
        for times in _SOFTENINGS:
            views.append(self._features([_softened(image, times) for image in images]))
        return views

    def _features(self, images: Images) -> npt.NDArray[np.float64]:
        odd = next((image.shape for image in images if image.shape != self._shape), None)
        if odd is not None:
            raise InputError(f"an image of {odd} pixels among images of {self._shape}; use one spectrogram preset")
        if not len(images):
            raise InputError("there are no images to judge")
        return np.stack([image_features(image) for image in images])


def measure_agreement(
    heard: Labels, wanted: Labels, real: Mapping[str, float], shuffles: int = 1000, seed: int = 0
) -> list[Agreement]:
    """Compare verdicts with captions, and with the captions in shuffled order.

    Args:
        heard: The judge's verdicts.
        wanted: What the captions ask for, in the same order. A caption is shuffled as a whole.
        real: The judge's accuracy on real clips, for every attribute.
        shuffles: Number of random orders.
        seed: Seed of the orders.
    """
    if shuffles < 1:
        raise ValueError(f"shuffles must be at least 1, not {shuffles}")
    clips = len(wanted[ATTRIBUTES[0]])
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(clips) for _ in range(shuffles)]
    agreements = []
    for name in ATTRIBUTES:
        verdicts, captions = np.asarray(heard[name]), np.asarray(wanted[name])
        control = np.array([np.mean(verdicts == captions[order]) for order in orders])
        agreements.append(
            Agreement(
                attribute=name,
                agreement=_share(heard[name], wanted[name]),
                shuffled=float(np.median(control)),
                shuffled_min=float(control.min()),
                shuffled_max=float(control.max()),
                real=real[name],
                clips=clips,
            )
        )
    return agreements


def _share(heard: Sequence[str], wanted: Sequence[str]) -> float:
    return float(np.mean(np.asarray(heard) == np.asarray(wanted)))


def _fit(views: Sequence[npt.NDArray[np.float64]], wanted: npt.NDArray[np.str_]) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MAX_ITERATIONS))
    return classifier.fit(np.concatenate(views), np.tile(wanted, len(views)))


def _softened(image: npt.NDArray[np.uint8], times: int) -> npt.NDArray[np.uint8]:
    """Blur an image with the kernel (1, 2, 1) / 4 in both directions, `times` times over."""
    values = image.astype(np.float64)
    for _ in range(times):
        padded = np.pad(values, 1, mode="edge")
        rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
        values = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
    return np.round(values).astype(np.uint8)


def _require_sklearn() -> None:
    if importlib.util.find_spec("sklearn") is None:
        raise InputError("judging clips needs the package scikit-learn: pip install 'riffusion-train[demo]'")
