import io
import math

import numpy as np
import PIL.Image
import pytest

from riffusion_train.audio.plots import compared_histogram_image, curve_image, running_mean, scatter_image


def pixels(png: bytes | None) -> np.ndarray:
    assert png is not None
    with PIL.Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def rows_of_the_mean(png: bytes | None) -> np.ndarray:
    """The height of the strong line in each column of the plot, from the top; NaN where there is none."""
    strong = np.abs(pixels(png) - (0x1F, 0x5F, 0xA8)).sum(2) < 60
    rows = np.arange(len(strong))[:, None]
    with np.errstate(invalid="ignore"):
        return (rows * strong).sum(0) / strong.sum(0)


def test_a_falling_loss_is_a_falling_line_that_is_smoother_than_its_points():
    rng = np.random.default_rng(0)
    points = [(step, 2 - step / 1000 + float(rng.normal(0, 0.2))) for step in range(1000)]
    rows = rows_of_the_mean(curve_image(points))
    heights = rows[np.isfinite(rows)]
    assert len(heights) > 400
    assert heights[-50:].mean() > heights[:50].mean() + 50
    means = [y for _, y in running_mean(points)]
    assert np.abs(np.diff(means)).mean() < 0.2 * np.abs(np.diff([y for _, y in points])).mean()


def test_losses_of_several_sizes_are_drawn_on_a_logarithmic_axis():
    def middle(values: list[float]) -> float:
        rows = rows_of_the_mean(curve_image(list(enumerate(values))))
        heights = rows[np.isfinite(rows)]
        return float((heights[len(heights) // 2] - heights[0]) / (heights[-1] - heights[0]))

    steps = np.linspace(0, 1, 400)
    assert middle(list(100.0 ** (1 - steps))) == pytest.approx(0.5, abs=0.05)
    assert middle(list(2.0 - steps)) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    "points",
    [
        [(0, 1.0), (1, 1.0)],
        [(0, 0.0), (5, 0.0), (9, 0.0)],
        [(0, -1.0), (1, 2.0)],
        [(3, 1e-9), (4, 1e9)],
        [(0, 1e-5), (1, 2e-5), (2, math.inf), (3, math.nan)],
        [(step, 1 / (step + 1)) for step in range(5000)],
        [(2, 1.0), (0, 3.0), (1, 2.0)],
    ],
)
def test_odd_curves_are_drawn_all_the_same(points: list[tuple[float, float]]):
    assert len(np.unique(pixels(curve_image(points)).reshape(-1, 3), axis=0)) > 3


def test_too_few_points_are_no_curve():
    assert curve_image([]) is None
    assert curve_image([(0, 1.0), (1, math.nan)]) is None
    assert curve_image([(1, 1.0), (1, 2.0)]) is None


def test_two_distributions_are_drawn_filled_and_as_a_line() -> None:
    png = compared_histogram_image("loudness, LUFS", [-20.0, -19.0, -18.5], [-14.0] * 5 + [-13.0])
    drawn = pixels(png)
    blue, sand = np.abs(drawn - (31, 95, 168)).sum(2) < 20, np.abs(drawn - (216, 210, 198)).sum(2) < 12
    assert blue[:, : drawn.shape[1] // 3].any() and not sand[:, : drawn.shape[1] // 2].any()
    assert sand[:, 2 * drawn.shape[1] // 3 :].any()
    assert compared_histogram_image("x", [0.0] * 300 + [1.0], []) is not None
    assert compared_histogram_image("x", [2.0], [2.0]) is not None and compared_histogram_image("x", [], [1.0]) is None


def test_two_sets_of_points_are_drawn_apart() -> None:
    png = scatter_image([(0.0, 0.0), (0.1, 0.0)], [(4.0, 0.0), (4.1, 0.1)])
    drawn = pixels(png)
    blue = np.argwhere(np.abs(drawn - (31, 95, 168)).sum(2) < 30)
    assert len(blue) and blue[:, 1].max() < drawn.shape[1] // 2
    assert scatter_image([(1.0, 1.0)], []) is None and scatter_image([], []) is None


def test_a_curve_of_measurements_passes_through_each_of_them() -> None:
    """Smoothed, the lowest of few values would not be seen."""
    points = [(0, 1.0), (1, 0.2), (2, 1.0)]
    smoothed, measured = (rows_of_the_mean(curve_image(points, intervals=one)) for one in (None, {}))
    assert np.nanmax(measured) > np.nanmax(smoothed) + 20
    with_interval = pixels(curve_image(points, intervals={1: (0.1, 0.3)}))
    assert len(np.unique(with_interval.reshape(-1, 3), axis=0)) > 3
