"""The loss of a run as a picture for its card."""

import json
import math
from pathlib import Path

_WIDTH, _HEIGHT, _SCALE = 640, 280, 2
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 36
_INK, _GRID, _LIGHT, _STRONG = "#333333", "#dddddd", "#a9c4e6", "#1f5fa8"
_WINDOW_SHARE = 0.05
_NUM_TICKS = 4


def read_losses(metrics_file: Path, last_step: int) -> list[tuple[int, float]]:
    """Return (step, loss) of every logged step up to `last_step`."""
    if not metrics_file.is_file():
        return []
    rows = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    points = [(int(row["step"]), float(row["loss"])) for row in rows if "loss" in row and row["step"] <= last_step]
    return [(step, loss) for step, loss in points if math.isfinite(loss)]


def write_curve(path: Path, points: list[tuple[int, float]]) -> None:
    """Draw the losses as a PNG: every point in a light line, their running mean in a strong one.

    Args:
        path: The file.
        points: (step, loss), at least two, in order.
    """
    from PIL import Image, ImageDraw, ImageFont

    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    low, high = min(losses), max(losses)
    high = high if high > low else low + 1e-6

    def place(step: float, loss: float) -> tuple[float, float]:
        x = _LEFT + (step - steps[0]) / (steps[-1] - steps[0]) * (_WIDTH - _LEFT - _RIGHT)
        return x * _SCALE, (_TOP + (high - loss) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)) * _SCALE

    image = Image.new("RGB", (_WIDTH * _SCALE, _HEIGHT * _SCALE), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(12 * _SCALE)
    for tick in range(_NUM_TICKS + 1):
        loss = low + (high - low) * tick / _NUM_TICKS
        step = steps[0] + (steps[-1] - steps[0]) * tick / _NUM_TICKS
        draw.line([place(steps[0], loss), place(steps[-1], loss)], fill=_GRID, width=_SCALE)
        x, y = place(steps[0], loss)
        draw.text((x - 8 * _SCALE, y), f"{loss:.3g}", fill=_INK, font=font, anchor="rm")
        x, y = place(step, low)
        draw.text((x, y + 8 * _SCALE), f"{step:.0f}", fill=_INK, font=font, anchor="ma" if tick < _NUM_TICKS else "ra")
    draw.line([place(*point) for point in points], fill=_LIGHT, width=_SCALE)
    draw.line([place(*point) for point in _running_mean(points)], fill=_STRONG, width=2 * _SCALE)
    draw.text((_WIDTH * _SCALE // 2, (_HEIGHT - 2) * _SCALE), "step; loss upwards", fill=_INK, font=font, anchor="mb")
    image.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS).save(path)


def _running_mean(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    half = max(1, round(len(points) * _WINDOW_SHARE))
    means = []
    for index, (step, _) in enumerate(points):
        window = [loss for _, loss in points[max(0, index - half) : index + half + 1]]
        means.append((step, sum(window) / len(window)))
    return means
