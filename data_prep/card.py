"""The dataset card: README.md with the front matter that `datasets` and the Hub read, and a contact sheet."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.report import counts_text
from data_prep.tokens import MAX_TOKENS
from riffusion_train.config.spectrogram import SpectrogramConfig, to_data
from riffusion_train.dataset.layout import COLUMNS, MANIFEST_FILE, SHARD_DIR

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_CELL_PX = 224
_GAP_PX = 8
_COLUMNS = 4


def card_text(
    stats: Mapping[str, Any],
    spectrogram: SpectrogramConfig,
    samples: Sequence[tuple[str, str]],
    extra_types: Mapping[str, str],
    command: str,
) -> str:
    """Return the dataset card as Markdown.

    Args:
        stats: The content of `stats.json`.
        spectrogram: The codec.
        samples: Some tracks with one caption each.
        extra_types: Names and types of the table's own columns.
        command: The command that made the dataset; may be empty.
    """
    totals, rejected = stats["totals"], stats["rejected"]
    splits = "\n".join(
        f"| {split} | {row['tracks']} | {row['slices']} | {row['hours']:.2f} |"
        for split, row in stats["splits"].items()
    )
    reasons = "\n".join(f"| {reason} | {count} |" for reason, count in rejected.items())
    left_out = f"| reason | tracks |\n|---|---|\n{reasons}\n\n" if rejected else "No track was rejected. "
    columns = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in COLUMNS.items())
    columns += "".join(f"\n| `{name}` | from the source table ({kind}) |" for name, kind in extra_types.items())
    parameters = "\n".join(f"| `{name}` | {value} |" for name, value in to_data(spectrogram)["spectrogram"].items())
    lines = "\n".join(f"{track}: {caption}".replace("`", "'") for track, caption in samples)
    made = f"```\n{command}\n```\n" if command else ""
    return f"""{_front_matter(stats)}
# Spectrogram dataset

Spectrogram images of {spectrogram.clip_s:.2f} s, cut from captioned tracks: {counts_text(totals)} of audio in the slices,
different captions: {stats["captions"]}{_cut_off_text(stats)}. Made by riffusion-train:

{made}
![Spectrograms](pictures/contact_sheet.png)

| split | tracks | slices | hours |
|---|---|---|---|
{splits}

No track, and no artist where artists are known, is in two splits, unless the source table itself says so.

## Columns

| column | meaning |
|---|---|
{columns}

## Captions of the pictures, from left to right and top to bottom

```
{lines}
```

## Left out

{left_out}{_warnings_text(stats["warnings"])}{stats["silent_slices"]} windows were left out as silent. What became of each
file is in `{MANIFEST_FILE}`.

## Spectrogram

`spectrogram.json` holds these parameters; an image and its `max_value` are enough to make the sound again.

| parameter | value |
|---|---|
{parameters}
"""


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


def _cut_off_text(stats: Mapping[str, Any]) -> str:
    count = stats["captions_cut_off"]
    return f", {count} of them longer than the {MAX_TOKENS} tokens that the model sees" if count else ""


def _warnings_text(warnings: Mapping[str, int]) -> str:
    told = ", ".join(f"{count} {doubt}" for doubt, count in warnings.items())
    return f"Used, but with a warning in the manifest: {told}. " if told else ""


def _version(fingerprint: str) -> str:
    """Return a version that changes with the content.

    `datasets` keeps what it has read under the folder's last name and this version, so without it two datasets that are both
    called `dataset`, or one that was made anew, would be taken for each other.
    """
    return f"1.0.{int(fingerprint[:7], 16)}"


def _front_matter(stats: Mapping[str, Any]) -> str:
    slices = stats["totals"]["slices"]
    size = next((name for limit, name in _SIZES if slices < limit), "n>1M")
    files = "\n".join(f"  - split: {split}\n    path: {SHARD_DIR}/{split}-*.parquet" for split in stats["splits"])
    return f"""---
pretty_name: Spectrogram dataset
task_categories:
- text-to-audio
tags:
- music
- spectrogram
- riffusion
size_categories:
- {size}
configs:
- config_name: default
  version: {_version(stats["fingerprint"])}
  data_files:
{files}
---"""
