import dataclasses
import itertools

import numpy as np
import pytest
import scipy.linalg

from riffusion_train.listening.distances import (
    TooFewClipsError,
    density_coverage,
    expected_coverage,
    frechet_at_infinity,
    frechet_audio_distance,
    kernel_audio_distance,
    kernel_inception_distance,
)

DISTANCES = (kernel_inception_distance, kernel_audio_distance)


def gaussian(clips, dim=8, mean=0.0, spread=1.0, seed=0):
    return mean + spread * np.random.default_rng(seed).standard_normal((clips, dim))


def by_hand(kernel, x, y):
    """Return the unbiased squared discrepancy as it is defined, pair by pair."""
    within = [np.mean([kernel(a, b) for a, b in itertools.permutations(clips, 2)]) for clips in (x, y)]
    return sum(within) - 2 * np.mean([kernel(a, b) for a, b in itertools.product(x, y)])


def test_kid_is_the_unbiased_discrepancy_of_the_cubic_kernel():
    x, y = gaussian(17, mean=0.5), gaussian(20, seed=1)
    expected = by_hand(lambda a, b: (a @ b / 8 + 1) ** 3, x, y)
    assert kernel_inception_distance(x, y).value == pytest.approx(expected, rel=1e-9)


def test_kad_has_the_median_distance_of_the_real_clips_as_bandwidth():
    x, y = gaussian(17, mean=0.5), gaussian(20, seed=1)
    width = np.median([np.linalg.norm(a - b) for a, b in itertools.combinations(y, 2)])
    expected = 100 * by_hand(lambda a, b: np.exp(-((a - b) @ (a - b)) / (2 * width**2)), x, y)
    assert kernel_audio_distance(x, y).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_interval_covers_zero_for_sets_of_one_distribution_and_not_for_others(distance):
    covered = [
        figure.low <= 0 <= figure.high
        for seed in range(20)
        for figure in [distance(gaussian(40, seed=2 * seed), gaussian(50, seed=2 * seed + 1))]
    ]
    assert sum(covered) >= 18
    other = distance(gaussian(40, mean=0.5), gaussian(50, seed=1))
    assert 0 < other.low < other.value < other.high


@pytest.mark.parametrize("distance", DISTANCES)
def test_kernel_distances_do_not_depend_on_the_number_of_clips(distance):
    def mean(clips, runs):
        return np.mean(
            [
                distance(gaussian(clips, mean=0.4, seed=2 * s), gaussian(clips, seed=2 * s + 1), resamples=0).value
                for s in range(runs)
            ]
        )

    assert mean(20, 1000) == pytest.approx(mean(200, 100), rel=0.06)


def numbers(figure):
    return [value for value in dataclasses.astuple(figure) if value is not None]


def test_the_order_of_the_clips_changes_nothing():
    x, y = gaussian(40, mean=0.3), gaussian(50, seed=1)
    order = np.random.default_rng(5).permutation(40)
    for measure in (*DISTANCES, frechet_audio_distance, frechet_at_infinity):
        one, other = measure(x, y), measure(x[order], y[::-1])
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-6), measure
    assert density_coverage(x, y) == density_coverage(x[order], y[::-1])


def test_fad_of_two_gaussians_is_their_frechet_distance():
    spread = np.array([1.0, 2.0, 0.5, 1.5])
    x, y = gaussian(200_000, 4, 1.0, spread), gaussian(200_000, 4, 0.0, 2 * spread, seed=1)
    # |1 - 0|^2 over four dimensions and (spread - 2 spread)^2 in each.
    assert frechet_audio_distance(x, y).value == pytest.approx(4 + (spread**2).sum(), rel=0.02)


def test_fad_agrees_with_the_square_root_of_the_matrix_product():
    x = gaussian(60) @ gaussian(8, seed=4)
    y = gaussian(70, seed=2) @ gaussian(8, seed=3) + 0.5
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert frechet_audio_distance(x, y).value == pytest.approx(expected, rel=1e-6)


def test_extrapolation_takes_most_of_the_bias_of_small_sets_away():
    real = gaussian(20_000, 16, seed=9)
    small = gaussian(64, 16)
    biased, corrected = frechet_audio_distance(small, real).value, frechet_at_infinity(small, real)
    assert biased > 0.8
    assert abs(corrected.value) < biased / 3
    assert corrected.low < corrected.value < corrected.high


def test_density_and_coverage_are_counted_by_balls_round_the_real_clips():
    x, y, k = gaussian(30, 3, 0.5), gaussian(28, 3, seed=1), 5
    inside = np.zeros((28, 30), bool)
    for i, real in enumerate(y):
        radius = sorted(np.linalg.norm(real - other) for other in y)[k]  # the first one is itself
        inside[i] = [np.linalg.norm(real - clip) < radius for clip in x]
    density, coverage = density_coverage(x, y)
    assert density.value == pytest.approx(inside.sum() / (k * 30))
    assert coverage.value == pytest.approx(inside.any(axis=1).mean())


def test_sets_of_one_kind_reach_the_expected_density_and_coverage():
    pairs = [density_coverage(gaussian(40, seed=2 * s), gaussian(60, seed=2 * s + 1)) for s in range(20)]
    assert np.mean([density.value for density, _ in pairs]) == pytest.approx(1.0, abs=0.1)
    assert np.mean([coverage.value for _, coverage in pairs]) == pytest.approx(expected_coverage(40, 60), abs=0.03)


def test_one_repeated_clip_is_dense_and_covers_little():
    real = gaussian(60, seed=1)
    density, coverage = density_coverage(np.repeat(real.mean(axis=0)[None], 40, axis=0), real)
    assert density.value > 1.5 and coverage.value < 0.8
    assert density_coverage(gaussian(40, mean=9.0), real)[0].value == 0


@pytest.mark.parametrize(
    ("measure", "needed"),
    [
        (kernel_inception_distance, 16),
        (kernel_audio_distance, 16),
        (frechet_audio_distance, 9),
        (frechet_at_infinity, 16),
        (density_coverage, 25),
    ],
)
def test_too_few_clips_are_refused_with_the_number_needed(measure, needed):
    real = gaussian(60, seed=1)
    measure(gaussian(needed), real)
    with pytest.raises(TooFewClipsError, match=f"at least {needed} clips, not {needed - 1}") as error:
        measure(gaussian(needed - 1), real)
    assert (error.value.needed, error.value.clips) == (needed, needed - 1)
    with pytest.raises(TooFewClipsError, match="real clips"):
        measure(real, gaussian(5))
