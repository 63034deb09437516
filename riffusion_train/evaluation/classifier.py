"""Does a model follow its captions? A classifier fitted on real clips labels the generated ones."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from riffusion_train.listening.words import Agreement, Labels, measure_agreement
from riffusion_train.runtime.errors import InputError

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
