"""Training curves as SVG: every logged point in a light line, their running median in a strong one."""

import dataclasses
import html
import math
from collections.abc import Sequence

_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 44
_WINDOW_SHARE = 0.04
_MOST_POINTS = 1200


@dataclasses.dataclass(frozen=True)
class Curve:
    """One training curve: a name, what is on its axes, and its points (step, value)."""

    name: str
    points: Sequence[tuple[float, float]]
    y_label: str = "loss"
    x_label: str = "step"


def curve_svg(curve: Curve) -> str:
    """Draw a curve as an inline SVG; its colours are the CSS classes of the page.

    The value axis is logarithmic where all values are positive and span more than a factor of eight.
    """
    points = [(x, y) for x, y in curve.points if math.isfinite(x) and math.isfinite(y)]
    if len(points) < 2:
        return '<p class="empty">too few points for a curve</p>'
    points = _thinned(sorted(points))
    smooth = _running_median(points)
    lowest, highest = _value_range([y for _, y in points])
    logarithmic = lowest > 0 and highest / lowest > 8
    x_ticks = _ticks(points[0][0], points[-1][0])
    y_ticks = _log_ticks(lowest, highest) if logarithmic else _ticks(lowest, highest)
    x_low, x_high = min(points[0][0], x_ticks[0]), points[-1][0]
    y_low, y_high = min(lowest, y_ticks[0]), max(highest, y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        y = min(max(y, y_low), y_high)
        share = math.log(y / y_low) / math.log(y_high / y_low) if logarithmic else (y - y_low) / (y_high - y_low)
        return (
            _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(_spoken(curve, smooth), quote=True)}">'
    ]
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in x_ticks:
        x, _ = place(tick, y_low)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{_number(tick)}</text>'
        )
    middle_x, middle_y = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    parts += [
        f'<text class="axis" x="{middle_x}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(curve.x_label)}</text>',
        f'<text class="axis" transform="translate(13 {middle_y}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(curve.y_label)}</text>",
        _polyline("raw", [place(x, y) for x, y in points]),
        _polyline("smooth", [place(x, y) for x, y in smooth]),
        "</svg>",
    ]
    return "".join(parts)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = math.ceil(len(points) / _MOST_POINTS)
    return points[::stride]


def _running_median(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    half = max(1, round(_WINDOW_SHARE * len(points)))
    smooth = []
    for index, (x, _) in enumerate(points):
        reach = min(half, index, len(points) - 1 - index) or (1 if len(points) > 8 else 0)
        window = sorted(y for _, y in points[max(0, index - reach) : index + reach + 1])
        smooth.append((x, window[len(window) // 2]))
    return smooth


def _value_range(values: list[float]) -> tuple[float, float]:
    """Return the range to show: all values but the largest hundredth, which the first steps own."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)]
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        return low - margin, high + margin
    return low, high


def _ticks(low: float, high: float) -> list[float]:
    """Return three to seven round numbers within [low, high], the last one perhaps just above."""
    raw = (high - low) / 5 or 1.0
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if 2 <= len(ticks) <= 7:
            return ticks
    return [low, high]


def _number(value: float) -> str:
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"


def _polyline(name: str, places: list[tuple[float, float]]) -> str:
    return f'<polyline class="{name}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'


def _spoken(curve: Curve, smooth: list[tuple[float, float]]) -> str:
    first, last = smooth[0], smooth[-1]
    return (
        f"{curve.name}: {curve.y_label} from {first[1]:.4g} at {curve.x_label} {first[0]:g} "
        f"to {last[1]:.4g} at {curve.x_label} {last[0]:g}"
    )
