"""The dataset card: README.md with the front matter that `datasets` and the Hub read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.inputs.captioning import LISTENING
from data_prep.output.stats import LOUDNESS_BINS, TEMPO_BINS, counts_text
from riffusion_train.config.prepare import PrepareConfig, Writer
from riffusion_train.config.spectrogram import to_data
from riffusion_train.dataset.layout import COLUMNS, MANIFEST_FILE, SHARD_DIR, column_types
from riffusion_train.runtime.clip_bpe import MAX_TOKENS

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_DATA_FILES = {
    Writer.parquet: ("{split}-*.parquet",),
    Writer.folder: ("{split}/*.png", "{split}/metadata.jsonl"),  # and not the captions in text files
    Writer.webdataset: ("{split}-*.tar",),
}
_LAYOUTS = {
    Writer.parquet: "Parquet shards, which `riffusion train` and `datasets.load_dataset` read.",
    Writer.folder: """PNG files with a `metadata.jsonl` for each split, which `datasets.load_dataset("imagefolder", data_dir=…)`
and trainers such as diffusers' `train_text_to_image.py --train_data_dir …/data/train` read. `file_name` is the image, `text`
the first caption, and the columns below are there as well. The `.txt` beside each image also holds the first caption, for
trainers such as kohya's (`--caption_extension .txt`).""",
    Writer.webdataset: """WebDataset shards: each slice is a `.png`, a `.txt` with the first caption, and a `.json` with the
columns below.""",
}


def card_text(
    stats: Mapping[str, Any],
    config: PrepareConfig,
    samples: Sequence[tuple[str, str]],
    extra_types: Mapping[str, str],
    charts: Sequence[str],
    command: str,
) -> str:
    """Return the dataset card as Markdown.

    Args:
        stats: The content of `stats.json`.
        config: The run's config.
        samples: Some tracks with one caption each.
        extra_types: Names and types of the table's own columns.
        charts: File names of the histograms.
        command: The command that made the dataset; empty if it was made from Python.
    """
    spectrogram = config.spectrogram
    splits = "\n".join(
        f"| {split} | {row['tracks']} | {row['slices']} | {row['hours']:.2f} |"
        for split, row in stats["splits"].items()
    )
    parameters = "\n".join(f"| `{name}` | {value} |" for name, value in to_data(spectrogram)["spectrogram"].items())
    lines = "\n".join(f"{track}: {caption}".replace("`", "'") for track, caption in samples)
    size = counts_text(stats["totals"])
    left_out = _rejected_text(stats["rejected"]) + _warnings_text(stats["warnings"])
    made = f"```\n{command}\n```\n" if command else ""
    return f"""{_front_matter(stats, config, extra_types)}
# Spectrogram dataset

Spectrogram images of {spectrogram.clip_s:.2f} s, cut from captioned tracks: {size} of audio in the slices.
Made by riffusion-train:

{made}
![Spectrograms](pictures/contact_sheet.png)

| | |
|---|---|
| captions | {_captions_text(stats)} |
| loudness of the tracks | {_loudness_text(stats)} |
| licence of the audio | {config.license} |
| fingerprint | `{stats["fingerprint"]}` |

| split | tracks | slices | hours |
|---|---|---|---|
{splits}

No track, and no artist where artists are known, is in two splits, unless the source table itself says so.

{_charts_text(charts)}

## Columns

{_LAYOUTS[config.writer]}

| column | meaning |
|---|---|
{_columns_text(extra_types)}

## Captions of the pictures, from left to right and top to bottom

```
{lines}
```

## Left out

{left_out}{stats["silent_slices"]} windows were left out as silent. What became of each
file is in `{MANIFEST_FILE}`.

## Spectrogram

`spectrogram.json` holds these parameters; an image and its `max_value` are enough to make the sound again.

| parameter | value |
|---|---|
{parameters}
"""


def _charts_text(charts: Sequence[str]) -> str:
    images = "\n\n".join(f"![{name.split('_')[0].capitalize()}](pictures/{name})" for name in charts)
    ends = (f"{low:g} and {high:g} {unit}" for (low, high, _), unit in ((LOUDNESS_BINS, "LUFS"), (TEMPO_BINS, "bpm")))
    beyond = f"Bars that end at {' or '.join(ends)} count what lies beyond as well."
    return f"{images}\n\n{beyond if charts else ''}"


def _columns_text(extra_types: Mapping[str, str]) -> str:
    own = [f"| `{name}` | {meaning} |" for name, meaning in COLUMNS.items()]
    origin = "from a table, sidecars, names, tags or measuring"
    return "\n".join([*own, *(f"| `{name}` | {origin} ({kind}) |" for name, kind in extra_types.items())])


def _rejected_text(rejected: Mapping[str, int]) -> str:
    reasons = "\n".join(f"| {reason} | {count} |" for reason, count in rejected.items())
    return f"| reason | tracks |\n|---|---|\n{reasons}\n\n" if rejected else "No track was rejected. "


def _captions_text(stats: Mapping[str, Any]) -> str:
    a_track, tokens, cut_off = stats["captions_a_track"], stats["caption_tokens"], stats["captions_cut_off"]
    text = f"{stats['captions']} different ones, {_range(a_track)} a track"
    text += f", {_range(tokens)} tokens long, half of them up to {tokens['median']}" if tokens else ""
    listened = stats.get("caption_sources", {}).get(LISTENING, 0)
    text += f"; those of {listened} tracks were made by listening, and may be wrong" if listened else ""
    return text + (f"; {cut_off} are longer than the {MAX_TOKENS} tokens that the model sees" if cut_off else "")


def _loudness_text(stats: Mapping[str, Any]) -> str:
    loudness = stats["loudness_lufs"]
    if loudness is None:
        return "not known"
    low, median, high = (loudness[name] for name in ("min", "median", "max"))
    return f"{low:.1f} to {high:.1f} LUFS, median {median:.1f}, before the gain of each track"


def _range(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return "0"
    return f"{spread['min']}" if spread["min"] == spread["max"] else f"{spread['min']} to {spread['max']}"


def _warnings_text(warnings: Mapping[str, int]) -> str:
    counted = ", ".join(f"{count} {name}" for name, count in warnings.items())
    return f"Used, but with a warning in the manifest: {counted}. " if counted else ""


def _version(fingerprint: str) -> str:
    """Return a version that changes with the content.

    `datasets` caches what it has read under the folder's last name and this version. Without it, two datasets that are both
    called `dataset`, or an old and a new version of one, would be mistaken for each other.
    """
    return f"1.0.{int(fingerprint[:7], 16)}"


def _paths(writer: Writer, split: str) -> str:
    """Return the patterns of a split's files, as YAML."""
    paths = [f"{SHARD_DIR}/{pattern.format(split=split)}" for pattern in _DATA_FILES[writer]]
    return f" {paths[0]}" if len(paths) == 1 else "".join(f"\n    - {path}" for path in paths)


def _dataset_info(stats: Mapping[str, Any], writer: Writer, extra_types: Mapping[str, str]) -> str:
    """Return what `datasets` and the Hub need not find out by reading: columns and numbers of rows, as YAML.

    `datasets` refuses to open a dataset whose numbers of rows are other ones. The columns are those of the Parquet shards; the
    readers of the other layouts add columns of their own, so theirs are not listed. Bytes are those of the shards.
    """
    lines = ["dataset_info:"]
    if writer is Writer.parquet:
        lines.append("  features:")
        for name, kind in column_types(extra_types).items():
            lines += [f"  - name: {json.dumps(name, ensure_ascii=False)}", f"    {kind}"]
    lines.append("  splits:")
    for split, counts in stats["splits"].items():
        size = sum(shard["bytes"] for shard in stats["shards"] if shard["split"] == split)
        lines += [f"  - name: {split}", f"    num_bytes: {size}", f"    num_examples: {counts['slices']}"]
    total = sum(shard["bytes"] for shard in stats["shards"])
    return "\n".join([*lines, f"  download_size: {total}", f"  dataset_size: {total}"])


def _front_matter(stats: Mapping[str, Any], config: PrepareConfig, extra_types: Mapping[str, str]) -> str:
    slices = stats["totals"]["slices"]
    size = next((name for limit, name in _SIZES if slices < limit), "n>1M")
    files = "\n".join(f"  - split: {split}\n    path:{_paths(config.writer, split)}" for split in stats["splits"])
    language = f"\nlanguage:\n- {config.language}" if config.language else ""
    return f"""---
pretty_name: Spectrogram dataset
license: {config.license}{language}
task_categories:
- text-to-audio
tags:
- music
- spectrogram
- riffusion
size_categories:
- {size}
{_dataset_info(stats, config.writer, extra_types)}
configs:
- config_name: default
  version: {_version(stats["fingerprint"])}
  data_files:
{files}
---"""
