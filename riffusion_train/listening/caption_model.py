"""The words of captions, learnt from real clips: which of them can be heard in an embedding, and does a clip have its own?"""

import collections
import itertools
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from riffusion_train.listening.distances import TooFewClipsError
from riffusion_train.listening.words import Comparison, compare

_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_LITTLE_WORDS = {"a", "an", "and", "as", "at", "by", "for", "from", "in", "is", "of", "on", "or", "the", "to", "with"}
_Matrix = npt.NDArray[np.float64]

_PENALTIES = (0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
_FOLDS = 5
_FURTHEST = 5.0
"""Standard deviations: generated clips can lie far outside the real ones, and a linear model would follow them anywhere."""
FEWEST_CLIPS = 50
"""Fewest real clips with captions that a caption model is fitted to."""
_FEWEST_USES = 8
_LEAST_SHARE, _GREATEST_SHARE = 0.01, 0.95
AUDIBLE = 0.6
"""Balanced accuracy on real clips from which a word counts as one that can be heard; chance is 0.5."""


def phrases(caption: str) -> set[str]:
    """Return the words of a caption and its pairs of neighbouring words, in small letters and without words like "the"."""
    tokens = [token for token in _WORD.findall(caption.lower()) if token not in _LITTLE_WORDS]
    return set(tokens) | {f"{a} {b}" for a, b in itertools.pairwise(tokens)}


class CaptionModel:
    """Ridge regressions from the embedding of a clip to the words of its captions, for any dataset with captions.

    Words and pairs of words that occur often enough in the captions of the real clips are learnt, each from 0 (not named)
    to 1 (named). The penalty and the accuracies are those of clips of other tracks, in five folds.

    Attributes:
        vocabulary: The words and pairs that are learnt.
        accuracy: For each of them the balanced accuracy on real clips that were not fitted, (vocabulary,).
        audible: Which of them the embedding can tell apart, (vocabulary,).
    """

    def __init__(
        self, embeddings: _Matrix, captions: Sequence[Sequence[str]], tracks: Sequence[str] | None = None
    ) -> None:
        """Fit the model.

        Args:
            embeddings: One for each real clip, (clips, dim).
            captions: All captions of each clip; clips without any are left out.
            tracks: The track of each clip, to keep slices of one track in one fold; None takes each clip for a track.

        Raises:
            TooFewClipsError: If fewer than `FEWEST_CLIPS` clips have captions, or no word is used often enough.
        """
        kept = [index for index, texts in enumerate(captions) if texts]
        if len(kept) < FEWEST_CLIPS:
            raise TooFewClipsError("learning the captions' words", FEWEST_CLIPS, len(kept), "real clips with captions")
        named = [set[str]().union(*(phrases(text) for text in captions[index])) for index in kept]
        uses = collections.Counter(word for words in named for word in words)
        least = max(_FEWEST_USES, _LEAST_SHARE * len(kept))
        self.vocabulary = sorted(w for w, count in uses.items() if least <= count <= _GREATEST_SHARE * len(kept))
        if not self.vocabulary:
            raise TooFewClipsError("learning the captions' words", 2 * len(kept), len(kept), "real clips with captions")
        self._index = {word: column for column, word in enumerate(self.vocabulary)}
        x = np.asarray(embeddings, np.float64)[kept]
        self._mean, self._spread = x.mean(axis=0), x.std(axis=0) + 1e-6
        x = self._standardise(x)
        y = np.array([[word in words for word in self.vocabulary] for words in named], np.float64)  # (clips, words)
        names = [str(index) for index in kept] if tracks is None else [tracks[index] for index in kept]
        self._rate, self._deviation = y.mean(axis=0), y.std(axis=0)
        held_out, penalty = _cross_validated(x, y, np.unique(names, return_inverse=True)[1])
        self._weights = _ridge(x, y - self._rate, (penalty,))[0]
        positive = (held_out * y).sum(axis=0) / y.sum(axis=0)
        negative = (held_out * (1 - y)).sum(axis=0) / (1 - y).sum(axis=0)
        self._threshold = (positive + negative) / 2.0
        self.accuracy = _balanced_accuracies(held_out > self._threshold, y > 0.5)
        self.audible: npt.NDArray[np.bool_] = self.accuracy >= AUDIBLE

    def scores(self, embeddings: _Matrix, captions: Sequence[str]) -> _Matrix:
        """Return how well each caption fits each clip, (clips, captions): the cosine of heard and named words.

        A caption without a word that was learnt fits every clip equally badly.
        """
        heard = (self._predict(embeddings) - self._rate) / self._deviation
        named = (self.named(captions) - self._rate) / self._deviation
        named[~self.named(captions).any(axis=1)] = 0.0
        return _cosines(heard[:, self.audible], named[:, self.audible])

    def named(self, captions: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Return which words of the vocabulary each caption names, (captions, vocabulary)."""
        named = np.zeros((len(captions), len(self.vocabulary)), bool)
        for row, caption in enumerate(captions):
            for word in phrases(caption):
                if (column := self._index.get(word)) is not None:
                    named[row, column] = True
        return named

    def agreement(
        self, embeddings: _Matrix, captions: Sequence[str], *, shuffles: int = 1000, resamples: int = 500, seed: int = 0
    ) -> tuple[Comparison, float]:
        """Return whether the named words are heard: the balanced accuracy, averaged over the audible words in use.

        Of each word it is the mean of two shares: of the clips that name it, those where it is heard, and of the clips
        that do not, those where it is not heard. Chance is 0.5.

        Args:
            embeddings: One for each clip, (clips, dim).
            captions: The caption of each clip.
            shuffles: Number of random orders of the captions.
            resamples: Number of bootstrap samples.
            seed: Seed of both.

        Returns:
            The agreement, and the same figure on real clips that were not fitted.

        Raises:
            TooFewClipsError: If no audible word is named by some of the clips and not by others.
        """
        named = self.named(captions)
        used = self.audible & (named.sum(axis=0) >= 2) & ((~named).sum(axis=0) >= 2)
        if not used.any():
            raise TooFewClipsError("agreement", len(captions) + 1, len(captions), "clips that share audible words")
        heard = self._predict(embeddings)[:, used] > self._threshold[used]
        named = named[:, used]

        def right(clips: npt.NDArray[np.intp], asked: npt.NDArray[np.intp]) -> float:
            return float(np.nanmean(_balanced_accuracies(heard[clips], named[asked])))

        result = compare(right, len(captions), shuffles=shuffles, resamples=resamples, seed=seed)
        return result, float(self.accuracy[used].mean())

    def _predict(self, embeddings: _Matrix) -> _Matrix:
        return np.asarray(self._standardise(np.asarray(embeddings, np.float64)) @ self._weights + self._rate)

    def _standardise(self, embeddings: _Matrix) -> _Matrix:
        return np.asarray(np.clip((embeddings - self._mean) / self._spread, -_FURTHEST, _FURTHEST))


def _balanced_accuracies(heard: npt.NDArray[np.bool_], named: npt.NDArray[np.bool_]) -> _Matrix:
    """Return the balanced accuracy of each word for (clips, words); NaN where all clips name it, or none."""
    counts = named.sum(axis=0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = (heard & named).sum(axis=0) / counts
        avoided = (~heard & ~named).sum(axis=0) / (len(named) - counts)
    return np.asarray((kept + avoided) / 2.0)


def _ridge(x: _Matrix, y: _Matrix, penalties: Sequence[float]) -> list[_Matrix]:
    """Return the ridge regressions (dim, words) of y (clips, words) on x (clips, dim), one for each penalty."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    projected = u.T @ y
    return [vt.T @ ((s / (s**2 + penalty))[:, None] * projected) for penalty in penalties]


def _cross_validated(x: _Matrix, y: _Matrix, tracks: npt.NDArray[np.intp]) -> tuple[_Matrix, float]:
    """Return predictions for clips of tracks that were not fitted, (clips, words), and the best penalty."""
    order = np.random.default_rng(0).permutation(tracks.max() + 1)
    fold = order[tracks] % _FOLDS
    predictions = np.zeros((len(_PENALTIES), *y.shape))
    for held_out in range(_FOLDS):
        fitted, others = fold != held_out, fold == held_out
        if not fitted.any() or not others.any():
            continue
        rate = y[fitted].mean(axis=0)
        for row, weights in enumerate(_ridge(x[fitted], y[fitted] - rate, _PENALTIES)):
            predictions[row, others] = x[others] @ weights + rate
    errors = ((predictions - y) ** 2 / y.var(axis=0)).mean(axis=(1, 2))
    best = int(np.argmin(errors))
    return predictions[best], _PENALTIES[best]


def _cosines(a: _Matrix, b: _Matrix) -> _Matrix:
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None, :]
    return np.asarray(a @ b.T / np.maximum(lengths, 1e-12))
