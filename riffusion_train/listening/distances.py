"""How far the embeddings of generated clips lie from those of real ones: KID, KAD, FAD, density and coverage.

All functions take one embedding for each clip, (clips, dim), and are independent of the order of the clips. The kernel
distances are unbiased, so that small sets may be compared, and can be slightly below 0; the Fréchet distance is biased upwards
by small sets, and is refused where its covariance would be singular. `MEANINGS` says of each figure of `evaluate score` in
plain language how to read it, its trap, and its paper.
"""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from riffusion_train.runtime.errors import InputError

# --- distances -------------------------------------------------------------------------------------------------------

KERNEL_CLIPS = 16
"""Fewest clips of a set for KID and KAD; below, their interval is as wide as the differences between models."""
EXACT_FRECHET_CLIPS = 1000
"""Below this number of clips, FAD says more about the number than about the sound."""

_KAD_SCALE = 100.0  # as in the paper's toolkit, for readable numbers
_INTERVAL = (2.5, 97.5)
_FRECHET_POINTS = 15
_FRECHET_REPEATS = 4

Embeddings = npt.NDArray[np.floating]
_Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measured value with its interval of 95 %; the ends are None where no interval is known."""

    value: float
    low: float | None = None
    high: float | None = None


class TooFewClipsError(InputError):
    """A set is too small for a figure.

    Attributes:
        needed: The number of clips that the figure needs.
        clips: The number of clips that there are.
    """

    def __init__(self, figure: str, needed: int, clips: int, kind: str = "clips") -> None:
        super().__init__(f"{figure} needs at least {needed} {kind}, not {clips}")
        self.needed = needed
        self.clips = clips


def kernel_inception_distance(
    generated: Embeddings, real: Embeddings, *, resamples: int = 200, seed: int = 0
) -> Figure:
    """Return KID: the unbiased squared maximum mean discrepancy with the kernel (x·y / dim + 1)³.

    Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401. The interval is a bootstrap over the clips of both sets in
    which a clip is never compared with its own copy, which would bias the unbiased estimate.

    Args:
        generated: Embeddings of the generated clips, (clips, dim).
        real: Embeddings of real clips, (clips, dim).
        resamples: Number of bootstrap samples; 0 gives no interval.
        seed: Seed of the bootstrap.

    Raises:
        TooFewClipsError: If a set has fewer than `KERNEL_CLIPS` clips.
    """
    x, y = _checked("KID", generated, real, KERNEL_CLIPS)
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    return _discrepancy(xx, yy, xy, resamples, seed)


def kernel_audio_distance(generated: Embeddings, real: Embeddings, *, resamples: int = 200, seed: int = 0) -> Figure:
    """Return KAD: 100 times the unbiased squared maximum mean discrepancy with a Gaussian kernel.

    Chung et al. 2025, https://arxiv.org/abs/2502.15602. The bandwidth is the median distance between two real clips, so
    that one real set gives one scale. Arguments, interval and errors are those of `kernel_inception_distance`.
    """
    x, y = _checked("KAD", generated, real, KERNEL_CLIPS)
    between_real = _squared_distances(y, y)
    width = float(np.median(np.sqrt(between_real[np.triu_indices(len(y), 1)])))
    scale = 2.0 * width**2 or 1.0  # all real clips the same: any width
    xx, yy, xy = (np.exp(-d / scale) for d in (_squared_distances(x, x), between_real, _squared_distances(x, y)))
    figure = _discrepancy(xx, yy, xy, resamples, seed)
    low, high = (None if end is None else _KAD_SCALE * end for end in (figure.low, figure.high))
    return Figure(_KAD_SCALE * figure.value, low, high)


def frechet_audio_distance(generated: Embeddings, real: Embeddings) -> Figure:
    """Return FAD: the Fréchet distance between two Gaussians fitted to the sets.

    Kilgour et al. 2019, https://arxiv.org/abs/1812.08466. Below `EXACT_FRECHET_CLIPS` clips it is biased upwards by an
    amount that depends on the number of clips and on the model, so that it compares nothing but sets of the same size.

    Args:
        generated: Embeddings of the generated clips, (clips, dim).
        real: Embeddings of real clips, (clips, dim).

    Raises:
        TooFewClipsError: If a set does not have more clips than dimensions: its covariance would be singular.
    """
    x, y = _checked("FAD", generated, real, np.shape(real)[-1] + 1)
    return Figure(_frechet(x, y.mean(axis=0), _root_of_covariance(y)))


def frechet_at_infinity(generated: Embeddings, real: Embeddings, *, seed: int = 0) -> Figure:
    """Return FAD∞: FAD of random subsets of the generated clips, extrapolated over 1 / n to infinitely many.

    Chong and Forsyth 2020, https://arxiv.org/abs/1911.07023, for sound Gui et al. 2023, https://arxiv.org/abs/2311.01616.
    Only the bias by the number of generated clips goes; the real set stays as it is. The interval is that of the line's
    value at 0, from its residuals.

    Raises:
        TooFewClipsError: If there are fewer than twice as many generated clips as dimensions, or no more real clips than
            dimensions.
    """
    dim = np.shape(real)[-1]
    x, y = _checked("FAD∞", generated, real, 2 * dim, dim + 1)
    mean, root = y.mean(axis=0), _root_of_covariance(y)
    rng = np.random.default_rng(seed)
    sizes = np.linspace(len(x) // 2, len(x), _FRECHET_POINTS).astype(int)
    order = np.lexsort(x.T)  # subsets must not depend on the order of the clips
    inverse, distances = [], []
    for size in sizes:
        for _ in range(_FRECHET_REPEATS if size < len(x) else 1):
            inverse.append(1.0 / size)
            distances.append(_frechet(x[order[rng.permutation(len(x))[:size]]], mean, root))
    # Least squares of distance = slope / n + intercept; the intercept is the distance at 1 / n = 0.
    a = np.stack([np.asarray(inverse), np.ones(len(inverse))], axis=1)
    solution, *_ = np.linalg.lstsq(a, np.asarray(distances), rcond=None)
    residuals = np.asarray(distances) - a @ solution
    spread = math.sqrt(residuals @ residuals / (len(residuals) - 2) * np.linalg.inv(a.T @ a)[1, 1])
    value = float(solution[1])
    return Figure(value, value - 1.96 * spread, value + 1.96 * spread)


def density_coverage(generated: Embeddings, real: Embeddings, *, neighbours: int = 5) -> tuple[Figure, Figure]:
    """Return density (are the generated clips like real ones?) and coverage (is every kind of real clip there?).

    Naeem et al. 2020, https://arxiv.org/abs/2002.09797. The ball of a real clip reaches to its k-th nearest real clip.
    Density is the number of balls that a generated clip lies in, over k: 1 for sets of the same kind, and more where the
    clips crowd at the most typical sounds. Coverage is the share of balls with a generated clip inside: see
    `expected_coverage`.

    Args:
        generated: Embeddings of the generated clips, (clips, dim).
        real: Embeddings of real clips, (clips, dim).
        neighbours: k, the number of neighbours that a ball reaches to.

    Raises:
        TooFewClipsError: If a set has fewer than five times `neighbours` clips.
    """
    x, y = _checked("coverage", generated, real, 5 * neighbours)
    between_real = _squared_distances(y, y)
    np.fill_diagonal(between_real, np.inf)
    radii = np.partition(between_real, neighbours - 1, axis=1)[:, neighbours - 1]  # (real,)
    inside = _squared_distances(y, x) < radii[:, None]  # (real, generated)
    return Figure(float(inside.sum() / (neighbours * len(x)))), Figure(float(inside.any(axis=1).mean()))


def expected_coverage(generated: int, real: int, neighbours: int = 5) -> float:
    """Return the coverage of that many generated clips when they come from the same distribution as the real ones."""
    steps = np.arange(1, neighbours + 1)
    return float(1.0 - np.prod((real - steps) / (real + generated - steps)))


def _checked(
    figure: str, generated: Embeddings, real: Embeddings, needed: int, needed_real: int | None = None
) -> tuple[_Matrix, _Matrix]:
    """Return both sets as (clips, dim) doubles, after looking at their sizes."""
    x, y = np.asarray(generated, np.float64), np.asarray(real, np.float64)
    if x.ndim != 2 or y.ndim != 2 or (len(x) and len(y) and x.shape[1] != y.shape[1]):
        raise ValueError(f"two sets of embeddings (clips, dim) are needed, not {x.shape} and {y.shape}")
    for count, least, kind in ((len(x), needed, "clips"), (len(y), needed_real or needed, "real clips")):
        if count < least:
            raise TooFewClipsError(figure, least, count, kind)
    return x, y


def _squared_distances(a: _Matrix, b: _Matrix) -> _Matrix:
    # |a - b|² = |a|² + |b|² - 2 a·b; rounding can make it slightly negative.
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2.0 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0))


def _discrepancy(xx: _Matrix, yy: _Matrix, xy: _Matrix, resamples: int, seed: int) -> Figure:
    """Return the unbiased squared discrepancy of kernel matrices, with a bootstrap interval."""
    np.fill_diagonal(xx, 0.0)
    np.fill_diagonal(yy, 0.0)

    def estimate(u: _Matrix, v: _Matrix) -> _Matrix:
        # How often each clip occurs in each sample, (samples, clips). Pairs of one clip with itself are left out of the
        # sums by the empty diagonals, and of the counts here.
        pairs_x, pairs_y = u.sum(axis=1) ** 2 - (u**2).sum(axis=1), v.sum(axis=1) ** 2 - (v**2).sum(axis=1)
        within = ((u @ xx) * u).sum(axis=1) / pairs_x + ((v @ yy) * v).sum(axis=1) / pairs_y
        return np.asarray(within - 2.0 * ((u @ xy) * v).sum(axis=1) / (u.sum(axis=1) * v.sum(axis=1)))

    m, n = xy.shape
    value = float(estimate(np.ones((1, m)), np.ones((1, n)))[0])
    if resamples < 1:
        return Figure(value)
    rng = np.random.default_rng(seed)
    counts_x = rng.multinomial(m, np.full(m, 1.0 / m), resamples).astype(np.float64)
    counts_y = rng.multinomial(n, np.full(n, 1.0 / n), resamples).astype(np.float64)
    # Sorted by the clips themselves, so that the interval does not depend on their order either.
    samples = estimate(counts_x[:, _ranks(xx, xy)], counts_y[:, _ranks(yy, xy.T)])
    low, high = np.percentile(samples, _INTERVAL)
    return Figure(value, float(low), float(high))


def _ranks(within: _Matrix, across: _Matrix) -> npt.NDArray[np.intp]:
    """Return the rank of each clip among those of its set, by its mean kernel to all clips."""
    return np.argsort(np.argsort(np.round(within.sum(axis=1) + across.sum(axis=1), 9), kind="stable"), kind="stable")


def _root_of_covariance(x: _Matrix) -> _Matrix:
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def _frechet(x: _Matrix, mean: _Matrix, root: _Matrix) -> float:
    """Return |μ₁ - μ₂|² + tr Σ₁ + tr Σ₂ - 2 tr (Σ₂^½ Σ₁ Σ₂^½)^½ for clips (clips, dim) and a Gaussian."""
    covariance = np.cov(x, rowvar=False)
    shared = np.linalg.eigvalsh(root @ covariance @ root)
    traces = np.trace(covariance) + np.trace(root @ root) - 2.0 * np.sqrt(np.maximum(shared, 0.0)).sum()
    return float(((x.mean(axis=0) - mean) ** 2).sum() + traces)


# --- what the figures mean -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Meaning:
    """The explanation of one figure."""

    label: str
    group: str
    """The part of the page: `quality`, `words`, `copies`."""
    better: str
    """Which way is better, for people."""
    meaning: str
    trap: str
    paper: str = ""
    is_share: bool = False
    """Whether the value is a share, shown in percent."""
    control: str = "other real music"
    """What the control is."""


MEANINGS = {
    "kid": Meaning(
        "KID", "quality", "lower is better",
        "How far the clips as a set are from real music, as the embedder hears them. 0: the two sets cannot be told apart.",
        "Only values with the same embedder and the same real clips compare, and only differences larger than the interval "
        "count. It says nothing about single clips, and nothing about captions.",
        "Bińkowski et al. 2018, arXiv:1801.01401",
    ),
    "kad": Meaning(
        "KAD", "quality", "lower is better",
        "The same question as KID with a kernel that looks at near neighbours.",
        "The width of its kernel comes from the real clips: another set of them gives another scale.",
        "Chung et al. 2025, arXiv:2502.15602",
    ),
    "fad": Meaning(
        "FAD", "quality", "lower is better",
        "The distance between two bell curves fitted to the clips and to real music; the figure that most papers give.",
        "It grows as clips get fewer: below 1,000 it mostly measures how many there are. Prefer KID.",
        "Kilgour et al. 2019, arXiv:1812.08466",
    ),
    "fad_infinity": Meaning(
        "FAD∞", "quality", "lower is better",
        "FAD extrapolated to endlessly many clips, which removes most of that error.",
        "The extrapolation itself is uncertain with few clips; it can come out below 0.",
        "Gui et al. 2024, arXiv:2311.01616",
    ),
    "density": Meaning(
        "Density", "quality", "near the control is better",
        "Fidelity: how many real neighbourhoods a clip falls into, on average.",
        "A model that always plays the one most typical clip has a high density; look at coverage too.",
        "Naeem et al. 2020, arXiv:2002.09797",
    ),
    "coverage": Meaning(
        "Coverage", "quality", "higher is better",
        "Diversity: the share of real clips that have a generated one in their neighbourhood.",
        "It needs about as many clips as real ones: with fewer it cannot reach 100 %.",
        "Naeem et al. 2020, arXiv:2002.09797", is_share=True,
    ),
    "agreement": Meaning(
        "Agreement with captions", "words", "higher is better",
        "How often what is heard in a clip is what its caption says.",
        "Only words that the real captions use often enough are judged. The control tells how much is chance.",
        is_share=True, control="shuffled captions",
    ),
    "retrieval": Meaning(
        "Caption found among 16", "words", "higher is better",
        "How often a clip fits its own caption better than 15 others.",
        "Captions that say nearly the same cannot be told apart by anybody.",
        is_share=True, control="shuffled captions",
    ),
    "clap_score": Meaning(
        "CLAP score", "words", "higher is better",
        "The similarity of clip and caption in a space that was trained on both.",
        "Its scale depends on the weights; only compare with the control and with other models of the same data.",
        "Wu et al. 2023, arXiv:2211.06687", control="shuffled captions",
    ),
    "tempo": Meaning(
        "Tempo", "words", "higher is better",
        "How often the measured tempo is within 4 % of the one that the caption names.",
        "Measuring tempo fails on music without clear beats, real music included.",
        is_share=True, control="shuffled captions",
    ),
    "tempo_multiples": Meaning(
        "Tempo, halves and doubles too", "words", "higher is better",
        "The same, where half and double the tempo count as right: listeners disagree about these as well.",
        "Chance is higher here: look at the control.", is_share=True, control="shuffled captions",
    ),
    "key": Meaning(
        "Key", "words", "higher is better",
        "How often the measured key is the one that the caption names.",
        "Relative keys share their notes, and are confused in real music too.",
        is_share=True, control="shuffled captions",
    ),
    "copies": Meaning(
        "Copies", "copies", "lower is better",
        "The share of clips that are nearer to a training slice than different pieces of real music are to one another.",
        "A flag is a reason to listen to the pair, not a verdict; the control is how many false alarms to expect.",
        is_share=True, control="false alarms to expect",
    ),
}  # fmt: skip
"""By the name of the row."""
