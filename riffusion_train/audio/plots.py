"""Plots for people, drawn with Pillow: spectrograms with axes, contact sheets, histograms, training curves, point clouds."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from riffusion_train.audio.read import resample
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import open_atomically

RANGE_DB = 80.0
DIFFERENCE_DB = 12.0

_BANDS, _TOP_HZ = 192, 20000.0
_WIDTH_PX = 720
_MARGIN, _CAPTION = 46, 22
_TICKS_HZ = (100, 300, 1000, 3000, 10000)
# Control points of two colour maps: black over violet and orange to white, and blue over white to red.
_HEAT = ((0, 0, 4), (51, 16, 104), (136, 34, 106), (212, 72, 66), (252, 165, 10), (252, 255, 214))
_CONTRAST = ((20, 60, 150), (110, 170, 230), (250, 250, 250), (240, 140, 110), (160, 20, 30))
_INK, _PAPER = (40, 40, 40), (255, 255, 255)


def draw_comparison(
    a: np.ndarray, a_rate_hz: int, b: np.ndarray, b_rate_hz: int, names: tuple[str, str]
) -> PIL.Image.Image:
    """Draw the spectrograms of two sounds and their difference B - A, one below the other, with the channels averaged.

    Args:
        a: (channels, samples), not silent.
        a_rate_hz: Its sample rate.
        b: (channels, samples).
        b_rate_hz: Its sample rate.
        names: Captions of the two.
    """
    first, second = _levels_db(a, a_rate_hz), _levels_db(b, b_rate_hz)
    columns = first.shape[1]
    second = np.pad(second[:, :columns], ((0, 0), (0, max(0, columns - second.shape[1]))), constant_values=-300.0)
    top = float(first.max())
    first, second = (np.maximum(levels, top - RANGE_DB) for levels in (first, second))
    heat = [(levels - top) / RANGE_DB + 1 for levels in (first, second)]
    difference = (second - first) / (2 * DIFFERENCE_DB) + 0.5
    duration_s = a.shape[1] / a_rate_hz
    panels = [
        _panel(heat[0], _HEAT, f"A  {names[0]}   ({RANGE_DB:.0f} dB from black to white)", duration_s),
        _panel(heat[1], _HEAT, f"B  {names[1]}", duration_s),
        _panel(
            difference, _CONTRAST, f"B - A   (blue -{DIFFERENCE_DB:.0f} dB, red +{DIFFERENCE_DB:.0f} dB)", duration_s
        ),
    ]
    return stack(panels)


def draw_spectrogram(wav: np.ndarray, rate_hz: int, name: str, top_db: float | None = None) -> PIL.Image.Image:
    """Draw the spectrogram of one sound, (channels, samples).

    Args:
        wav: The sound.
        rate_hz: Its sample rate.
        name: The caption.
        top_db: The level that is drawn white; None takes the loudest of the sound.
    """
    levels = _levels_db(wav, rate_hz)
    top = float(levels.max()) if top_db is None else top_db
    return _panel((np.maximum(levels, top - RANGE_DB) - top) / RANGE_DB + 1, _HEAT, name, wav.shape[1] / rate_hz)


def stack(panels: list[PIL.Image.Image]) -> PIL.Image.Image:
    """Put images of one width below each other."""
    image = PIL.Image.new("RGB", (panels[0].width, sum(panel.height for panel in panels)), _PAPER)
    top = 0
    for panel in panels:
        image.paste(panel, (0, top))
        top += panel.height
    return image


def write_image(path: Path, image: PIL.Image.Image, colours: int | None = None) -> None:
    """Write a PNG, with a palette of so many `colours` where that is given, which makes it a third of the size.

    Raises:
        InputError: If it cannot be written.
    """
    if colours:
        image = image.quantize(colours, dither=PIL.Image.Dither.NONE)
    try:
        with open_atomically(path) as file:
            image.save(file, "PNG", optimize=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _levels_db(wav: np.ndarray, rate_hz: int) -> np.ndarray:
    """Return mel levels in decibels, (bands, frames), of the mean power of the channels."""
    import torch  # here and not above: prepare draws histograms without torch

    from riffusion_train.audio.compare import RATE_HZ, mel_power_db

    samples = torch.from_numpy(resample(wav, rate_hz, RATE_HZ))
    power = 10 ** (mel_power_db(samples, _BANDS, _TOP_HZ) / 10)
    return (10 * power.mean(0).log10()).numpy()


def _panel(
    values: np.ndarray, colours: tuple[tuple[int, int, int], ...], name: str, duration_s: float
) -> PIL.Image.Image:
    """Draw values from 0 to 1, (bands, frames), with the low bands at the bottom, axes and a caption."""
    bands = len(values)
    image = PIL.Image.new("RGB", (_MARGIN + _WIDTH_PX + 8, _CAPTION + bands + _CAPTION), _PAPER)
    draw, font = PIL.ImageDraw.Draw(image), PIL.ImageFont.load_default(11)
    resized = PIL.Image.fromarray(_coloured(values[::-1], colours)).resize((_WIDTH_PX, bands), PIL.Image.Resampling.BOX)
    image.paste(resized, (_MARGIN, _CAPTION))
    draw.text((_MARGIN, 4), name, _INK, font)
    for hz in _TICKS_HZ:
        y = _CAPTION + bands * (1 - np.log10(1 + hz / 700) / np.log10(1 + _TOP_HZ / 700))
        label = f"{hz // 1000} kHz" if hz >= 1000 else f"{hz} Hz"
        draw.text((_MARGIN - 6, y), label, _INK, font, anchor="rm")
        draw.line([(_MARGIN - 4, y), (_MARGIN - 1, y)], _INK)
    step_s = next((step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300) if duration_s / step <= 8), 600)
    for tick in range(int(duration_s / step_s) + 1):
        x = _MARGIN + _WIDTH_PX * tick * step_s / duration_s
        draw.line([(x, _CAPTION + bands), (x, _CAPTION + bands + 3)], _INK)
        draw.text(
            (x, _CAPTION + bands + 5),
            f"{tick * step_s:g} s",
            _INK,
            font,
            anchor="ra" if tick * step_s > 0.97 * duration_s else "ma",
        )
    return image


def _coloured(values: np.ndarray, colours: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """Map values from 0 to 1, (height, width), to colours, uint8 (height, width, 3)."""
    points = np.linspace(0, 1, len(colours))
    planes = [np.interp(values.clip(0, 1), points, [colour[plane] for colour in colours]) for plane in range(3)]
    return np.stack(planes, -1).round().astype(np.uint8)


_CELL_PX = 224
_GAP_PX = 8
_COLUMNS = 4


def contact_sheet(pngs: Sequence[bytes]) -> bytes:
    """Return one PNG with the given PNGs in rows of four."""
    columns = min(_COLUMNS, len(pngs))
    rows = -(-len(pngs) // columns)
    step = _CELL_PX + _GAP_PX
    sheet = PIL.Image.new("RGB", (columns * step - _GAP_PX, rows * step - _GAP_PX), "white")
    for index, png in enumerate(pngs):
        with PIL.Image.open(io.BytesIO(png)) as image:
            cell = image.convert("RGB").resize((_CELL_PX, _CELL_PX), PIL.Image.Resampling.BILINEAR)
        sheet.paste(cell, (index % columns * step, index // columns * step))
    return _png(sheet)


_CHART_WIDTH_PX, _CHART_HEIGHT_PX = 920, 260
_LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 16, 16, 44, 40
_CHART_INK, _FAINT, _BAR = (50, 50, 50), (205, 205, 205), (92, 84, 160)
_MIN_BINS = 8


def histogram_image(title: str, unit: str, start: float, step: float, counts: Sequence[int]) -> bytes:
    """Return a histogram as PNG: a bar for each bin with its count above it, and the edges of the bins below.

    Args:
        title: What is counted.
        unit: Unit of the edges.
        start: Lower edge of the first bin.
        step: Width of a bin.
        counts: Number of items in each bin.
    """
    image = PIL.Image.new("RGB", (_CHART_WIDTH_PX, _CHART_HEIGHT_PX), "white")
    draw, font = PIL.ImageDraw.Draw(image), PIL.ImageFont.load_default(14)
    draw.text((_LEFT_PX, 10), f"{title}, {unit}", _CHART_INK, font)
    # A dataset of one loudness should not get one bar as wide as the page.
    bins = max(_MIN_BINS, len(counts))
    width_px = (_CHART_WIDTH_PX - _LEFT_PX - _RIGHT_PX) / bins
    base_px, bar_px = _CHART_HEIGHT_PX - _BOTTOM_PX, _CHART_HEIGHT_PX - _TOP_PX - _BOTTOM_PX - 20
    draw.line([(_LEFT_PX, base_px), (_CHART_WIDTH_PX - _RIGHT_PX, base_px)], _FAINT)
    for index, count in enumerate(counts):
        left = _LEFT_PX + index * width_px
        if count:
            top = base_px - max(2, round(bar_px * count / max(counts)))
            draw.rectangle([(left + 2, top), (left + width_px - 2, base_px - 1)], _BAR)
            draw.text((left + width_px / 2, top - 4), str(count), _CHART_INK, font, anchor="ms")
    for index in range(len(counts) + 1):
        x = _LEFT_PX + index * width_px
        draw.line([(x, base_px), (x, base_px + 4)], _FAINT)
        anchor = "la" if index == 0 else "ra" if index == bins else "ma"
        draw.text((x, base_px + 9), f"{start + index * step:g}", _CHART_INK, font, anchor=anchor)
    return _png(image)


_CURVE_WIDTH, _CURVE_HEIGHT, _SCALE = 640, 280, 2
_CURVE_LEFT, _CURVE_RIGHT, _CURVE_TOP, _CURVE_BOTTOM = 64, 20, 16, 44
_GRID, _LIGHT, _STRONG = "#dddddd", "#a9c4e6", "#1f5fa8"
_REFERENCE, _REFERENCE_POINT = "#d8d2c6", "#b9b2a4"
_HISTOGRAM_BINS = 24
_MEAN_SHARE = 0.05
"""Half of the running mean's window, as a share of all points."""
_MAX_POINTS = 1200
_LOGARITHMIC_FROM = 8.0
"""Ratio of the largest to the smallest value from which the axis is logarithmic."""

Points = Sequence[tuple[float, float]]


def curve_image(
    points: Points,
    *,
    x_label: str = "step",
    y_label: str = "loss",
    intervals: Mapping[float, tuple[float, float]] | None = None,
) -> bytes | None:
    """Return a training curve as PNG: every point in a light line, and the running mean in a strong one.

    The value axis is logarithmic where all values are positive and span more than a factor of eight. The largest hundredth
    of the values is cut off at the top, as the first steps of a training would set the scale for all others.

    Args:
        points: (x, y) in any order; those that are not finite are left out.
        x_label: What the horizontal axis is.
        y_label: What the vertical axis is.
        intervals: The interval of each value by its x, where known; each point is then a dot with its interval, and the
            strong line joins the points themselves: few measurements, each of which counts.

    Returns:
        The PNG; None where fewer than two different steps are left.
    """
    measured = intervals is not None
    finite = sorted(point for point in points if all(map(math.isfinite, point)))
    finite = finite[:: math.ceil(len(finite) / _MAX_POINTS) or 1]
    if len(finite) < 2 or finite[0][0] == finite[-1][0]:
        return None
    low, high = _value_range([*(y for _, y in finite), *(end for ends in (intervals or {}).values() for end in ends)])
    logarithmic = low > 0 and high / low > _LOGARITHMIC_FROM
    y_ticks = _log_ticks(low, high) if logarithmic else _linear_ticks(low, high)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
    left, right = finite[0][0], finite[-1][0]

    def position(x: float, y: float) -> tuple[float, float]:
        y = min(max(y, low), high)
        share = math.log(y / low) / math.log(high / low) if logarithmic else (y - low) / (high - low)
        return (
            (_CURVE_LEFT + (x - left) / (right - left) * (_CURVE_WIDTH - _CURVE_LEFT - _CURVE_RIGHT)) * _SCALE,
            (_CURVE_HEIGHT - _CURVE_BOTTOM - share * (_CURVE_HEIGHT - _CURVE_TOP - _CURVE_BOTTOM)) * _SCALE,
        )

    image, draw, font = _chart()
    for tick in y_ticks:
        draw.line([position(left, tick), position(right, tick)], _GRID, _SCALE)
        x, y = position(left, tick)
        draw.text((x - 8 * _SCALE, y), _tick_label(tick), _INK, font, anchor="rm")
    for tick in _linear_ticks(left, right):
        x, y = position(tick, low)
        draw.text((x, y + 8 * _SCALE), _tick_label(tick), _INK, font, anchor="ma")
    for x, ends in (intervals or {}).items():
        draw.line([position(x, end) for end in ends], _LIGHT, 6 * _SCALE)
    draw.line([position(*point) for point in finite], _LIGHT, _SCALE)
    draw.line([position(*point) for point in (finite if measured else running_mean(finite))], _STRONG, 2 * _SCALE)
    for x, y in (position(*point) for point in finite if measured):
        draw.ellipse([x - 4 * _SCALE, y - 4 * _SCALE, x + 4 * _SCALE, y + 4 * _SCALE], fill=_STRONG)
    label = f"{x_label}; {y_label} upwards{', logarithmic' if logarithmic else ''}"
    draw.text((_CURVE_WIDTH * _SCALE // 2, (_CURVE_HEIGHT - 4) * _SCALE), label, _INK, font, anchor="mb")
    return _png(image.resize((_CURVE_WIDTH, _CURVE_HEIGHT), PIL.Image.Resampling.LANCZOS))


def compared_histogram_image(x_label: str, ours: Sequence[float], reference: Sequence[float]) -> bytes | None:
    """Return the distributions of two sets of values as PNG: the reference filled, ours as a line over it.

    Both are drawn as shares of their own set, so that sets of different sizes compare. The outermost hundredth on either
    side is put into the outermost bins.

    Args:
        x_label: What the values are, with their unit.
        ours: The values of the set in question.
        reference: The values that they are compared with; may be empty.

    Returns:
        The PNG; None where there are no values of ours.
    """
    values = sorted(value for value in (*ours, *reference) if math.isfinite(value))
    if not ours or not values:
        return None
    cut = len(values) // 100
    low, high = values[cut], values[-1 - cut]
    if low == high:  # but for a few, all are the same
        low, high = (values[0], values[-1]) if values[0] < values[-1] else _value_range(values)
    edges = np.linspace(low, high, _HISTOGRAM_BINS + 1)
    shares = [
        np.histogram(np.clip(one, low, high), edges)[0] / max(1, len(one))
        for one in (np.asarray(reference, float), np.asarray(ours, float))
    ]
    top = max(float(share.max()) for share in shares)
    left, right = _CURVE_RIGHT, _CURVE_WIDTH - _CURVE_RIGHT

    def position(x: float, share: float) -> tuple[float, float]:
        height = _CURVE_HEIGHT - _CURVE_BOTTOM - _CURVE_TOP
        return (
            (left + (x - low) / (high - low) * (right - left)) * _SCALE,
            (_CURVE_HEIGHT - _CURVE_BOTTOM - share / top * height) * _SCALE,
        )

    image, draw, font = _chart()
    outline = [position(low, 0.0)]
    for index, (reference_share, share) in enumerate(zip(*shares, strict=True)):
        start, end = float(edges[index]), float(edges[index + 1])
        if reference_share:
            draw.rectangle([position(start, float(reference_share)), position(end, 0.0)], _REFERENCE)
        outline += [position(start, float(share)), position(end, float(share))]
    draw.line([*outline, position(high, 0.0)], _STRONG, 3 * _SCALE, joint="curve")
    for tick in _linear_ticks(low, high):
        x, y = position(tick, 0.0)
        draw.line([(x, y), (x, y + 4 * _SCALE)], _INK, _SCALE)
        draw.text((x, y + 7 * _SCALE), _tick_label(tick), _INK, font, anchor="ma")
    draw.text((_CURVE_WIDTH * _SCALE // 2, (_CURVE_HEIGHT - 4) * _SCALE), x_label, _INK, font, anchor="mb")
    return _png(image.resize((_CURVE_WIDTH, _CURVE_HEIGHT), PIL.Image.Resampling.LANCZOS))


def scatter_image(ours: Points, reference: Points) -> bytes | None:
    """Return two sets of points in a plane as PNG: the reference in grey, ours in blue over it, on axes without a unit.

    Args:
        ours: (x, y) of the set in question.
        reference: (x, y) of what it is compared with.

    Returns:
        The PNG; None where there are fewer than two different points.
    """
    every = np.array([*reference, *ours], float).reshape(-1, 2)
    low, high = (every.min(axis=0), every.max(axis=0)) if len(every) else (np.zeros(2), np.zeros(2))
    if not (high > low).any():
        return None
    # One scale for both axes: distances in the picture are distances in the plane.
    size = np.array([_CURVE_WIDTH, 2 * _CURVE_HEIGHT]) - 2 * _CURVE_RIGHT
    scale = float((size / np.maximum(high - low, 1e-12)).min())
    centre, middle = (low + high) / 2, np.array([_CURVE_WIDTH, 2 * _CURVE_HEIGHT]) / 2
    image, draw, _ = _chart(2 * _CURVE_HEIGHT)
    for points, colour, radius in ((reference, _REFERENCE_POINT, 3.0), (ours, _STRONG, 3.5)):
        for point in points:
            x, y = (middle + (np.array(point) - centre) * scale * (1, -1)) * _SCALE
            box = [x - radius * _SCALE, y - radius * _SCALE, x + radius * _SCALE, y + radius * _SCALE]
            draw.ellipse(box, fill=colour, outline="white")
    return _png(image.resize((_CURVE_WIDTH, 2 * _CURVE_HEIGHT), PIL.Image.Resampling.LANCZOS))


def _chart(height: int = _CURVE_HEIGHT) -> tuple[PIL.Image.Image, PIL.ImageDraw.ImageDraw, Any]:
    """Return an empty chart at twice its size, what draws on it, and its font: Pillow's lines are not antialiased."""
    image = PIL.Image.new("RGB", (_CURVE_WIDTH * _SCALE, height * _SCALE), "white")
    return image, PIL.ImageDraw.Draw(image), PIL.ImageFont.load_default(12 * _SCALE)


def running_mean(points: Points) -> list[tuple[float, float]]:
    """Return the points with each value replaced by the mean over a tenth of them; the window shrinks at the ends."""
    half = max(1, round(len(points) * _MEAN_SHARE))
    means = []
    for index, (x, _) in enumerate(points):
        window = [y for _, y in points[max(0, index - half) : index + half + 1]]
        means.append((x, sum(window) / len(window)))
    return means


def _value_range(values: list[float]) -> tuple[float, float]:
    """Return the range of all values but the largest hundredth; never empty."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)]
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        return low - margin, high + margin
    return low, high


def _linear_ticks(low: float, high: float) -> list[float]:
    """Return three to seven round numbers in [low, high]."""
    raw = (high - low) / 5
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return two to seven numbers in [low, high], evenly spaced by ratio as far as round numbers are."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if 2 <= len(ticks) <= 7:
            return ticks
    return [low, high]


def _tick_label(value: float) -> str:
    if value and abs(value) < 1e-3:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.4g}"


def _png(image: PIL.Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()
