"""The pictures of the dataset card: spectrograms side by side, and histograms."""

import io
from collections.abc import Sequence

_CELL_PX = 224
_GAP_PX = 8
_COLUMNS = 4
_WIDTH_PX, _HEIGHT_PX = 920, 260
_LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 16, 16, 44, 40
_INK, _FAINT, _BAR = (50, 50, 50), (205, 205, 205), (92, 84, 160)


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


def histogram_picture(title: str, unit: str, start: float, step: float, counts: Sequence[int]) -> bytes:
    """Return a histogram as PNG: a bar for each bin with its count above, the edges of the bins below.

    Args:
        title: What is counted.
        unit: Unit of the edges.
        start: Lower edge of the first bin.
        step: Width of a bin.
        counts: How many there are in each bin.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (_WIDTH_PX, _HEIGHT_PX), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    draw.text((_LEFT_PX, 10), f"{title}, {unit}", _INK, font)
    # At least eight places, so that a dataset of one loudness does not get one bar as wide as the page.
    places = max(8, len(counts))
    width_px = (_WIDTH_PX - _LEFT_PX - _RIGHT_PX) / places
    base, room_px = _HEIGHT_PX - _BOTTOM_PX, _HEIGHT_PX - _TOP_PX - _BOTTOM_PX - 20
    draw.line([(_LEFT_PX, base), (_WIDTH_PX - _RIGHT_PX, base)], _FAINT)
    for index, count in enumerate(counts):
        left = _LEFT_PX + index * width_px
        if count:
            top = base - max(2, round(room_px * count / max(counts)))
            draw.rectangle([(left + 2, top), (left + width_px - 2, base - 1)], _BAR)
            draw.text((left + width_px / 2, top - 4), str(count), _INK, font, anchor="ms")
    for index in range(len(counts) + 1):
        x = _LEFT_PX + index * width_px
        draw.line([(x, base), (x, base + 4)], _FAINT)
        anchor = "la" if index == 0 else "ra" if index == places else "ma"
        draw.text((x, base + 9), f"{start + index * step:g}", _INK, font, anchor=anchor)
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return sink.getvalue()
