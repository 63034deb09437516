"""Numbers that say what a spectrogram image sounds like: timbre, register, rhythm. No learning, no audio."""

import numpy as np
import numpy.typing as npt

_BAND_GROUPS = 4
_CEPSTRUM = 24
_EDGE_GROUPS = 16
_FRAME_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_TINY = 1e-9

Features = npt.NDArray[np.float64]


def picture_features(image: npt.NDArray[np.uint8]) -> Features:
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
