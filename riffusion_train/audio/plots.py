"""Plots for people: spectrograms with axes, the difference of two, contact sheets, histograms."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch

from riffusion_train.audio.compare import RATE_HZ, mel_power_db
from riffusion_train.audio.io.read import resample
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
    """Draw the spectrograms of two sounds, and B - A, below each other; the mean power of the channels is shown.

    Args:
        a: (channels, samples), not silent.
        a_rate_hz: Its sample rate.
        b: (channels, samples).
        b_rate_hz: Its sample rate.
        names: What the two are called.
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
        top_db: The level that is shown white; None takes its own loudest.
    """
    levels = _levels_db(wav, rate_hz)
    top = float(levels.max()) if top_db is None else top_db
    return _panel((np.maximum(levels, top - RANGE_DB) - top) / RANGE_DB + 1, _HEAT, name, wav.shape[1] / rate_hz)


def stack(panels: list[PIL.Image.Image]) -> PIL.Image.Image:
    """Put pictures of one width below each other."""
    picture = PIL.Image.new("RGB", (panels[0].width, sum(panel.height for panel in panels)), _PAPER)
    height = 0
    for panel in panels:
        picture.paste(panel, (0, height))
        height += panel.height
    return picture


def write_image(path: Path, picture: PIL.Image.Image, colours: int | None = None) -> None:
    """Write a PNG, with a palette where `colours` are given, which makes it a third of the size.

    Raises:
        InputError: If it cannot be written.
    """
    if colours:
        picture = picture.quantize(colours, dither=PIL.Image.Dither.NONE)
    try:
        with open_atomically(path) as file:
            picture.save(file, "PNG", optimize=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _levels_db(wav: np.ndarray, rate_hz: int) -> np.ndarray:
    """Return mel levels, (bands, frames), of the mean of the channels' powers."""
    samples = torch.from_numpy(resample(wav, rate_hz, RATE_HZ))
    power = 10 ** (mel_power_db(samples, _BANDS, _TOP_HZ) / 10)
    return (10 * power.mean(0).log10()).numpy()


def _panel(
    values: np.ndarray, colours: tuple[tuple[int, int, int], ...], name: str, duration_s: float
) -> PIL.Image.Image:
    """Draw values from 0 to 1, (bands, frames), with the low bands at the bottom, axes and a caption."""
    bands = len(values)
    picture = PIL.Image.new("RGB", (_MARGIN + _WIDTH_PX + 8, _CAPTION + bands + _CAPTION), _PAPER)
    draw, font = PIL.ImageDraw.Draw(picture), PIL.ImageFont.load_default(11)
    resized = PIL.Image.fromarray(_coloured(values[::-1], colours)).resize((_WIDTH_PX, bands), PIL.Image.Resampling.BOX)
    picture.paste(resized, (_MARGIN, _CAPTION))
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
    return picture


def _coloured(values: np.ndarray, colours: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    points = np.linspace(0, 1, len(colours))
    planes = [np.interp(values.clip(0, 1), points, [colour[plane] for colour in colours]) for plane in range(3)]
    return np.stack(planes, -1).round().astype(np.uint8)


_CELL_PX = 224
_GAP_PX = 8
_COLUMNS = 4
_CHART_WIDTH_PX, _HEIGHT_PX = 920, 260
_LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 16, 16, 44, 40
_CHART_INK, _FAINT, _BAR = (50, 50, 50), (205, 205, 205), (92, 84, 160)


def contact_sheet(pngs: Sequence[bytes]) -> bytes:
    """Return one PNG with the given PNGs in rows of four."""
    from PIL import Image

    columns = min(_COLUMNS, len(pngs))
    rows = -(-len(pngs) // columns)
    step = _CELL_PX + _GAP_PX
    sheet = Image.new("RGB", (columns * step - _GAP_PX, rows * step - _GAP_PX), "white")
    for index, png in enumerate(pngs):
        with Image.open(io.BytesIO(png)) as image:
            cell = image.convert("RGB").resize((_CELL_PX, _CELL_PX), Image.Resampling.BILINEAR)
        sheet.paste(cell, (index % columns * step, index // columns * step))
    sink = io.BytesIO()
    sheet.save(sink, "PNG")
    return sink.getvalue()


def histogram_image(title: str, unit: str, start: float, step: float, counts: Sequence[int]) -> bytes:
    """Return a histogram as PNG: a bar for each bin with its count above, the edges of the bins below.

    Args:
        title: What is counted.
        unit: Unit of the edges.
        start: Lower edge of the first bin.
        step: Width of a bin.
        counts: How many there are in each bin.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (_CHART_WIDTH_PX, _HEIGHT_PX), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    draw.text((_LEFT_PX, 10), f"{title}, {unit}", _CHART_INK, font)
    # At least eight places, so that a dataset of one loudness does not get one bar as wide as the page.
    places = max(8, len(counts))
    width_px = (_CHART_WIDTH_PX - _LEFT_PX - _RIGHT_PX) / places
    base, room_px = _HEIGHT_PX - _BOTTOM_PX, _HEIGHT_PX - _TOP_PX - _BOTTOM_PX - 20
    draw.line([(_LEFT_PX, base), (_CHART_WIDTH_PX - _RIGHT_PX, base)], _FAINT)
    for index, count in enumerate(counts):
        left = _LEFT_PX + index * width_px
        if count:
            top = base - max(2, round(room_px * count / max(counts)))
            draw.rectangle([(left + 2, top), (left + width_px - 2, base - 1)], _BAR)
            draw.text((left + width_px / 2, top - 4), str(count), _CHART_INK, font, anchor="ms")
    for index in range(len(counts) + 1):
        x = _LEFT_PX + index * width_px
        draw.line([(x, base), (x, base + 4)], _FAINT)
        anchor = "la" if index == 0 else "ra" if index == places else "ma"
        draw.text((x, base + 9), f"{start + index * step:g}", _CHART_INK, font, anchor=anchor)
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return sink.getvalue()
