"""What a dataset says of itself: its statistics, for `stats.json` and the report, the estimate of a dry run, and its card.

The card is README.md, with the front matter that `datasets` and the Hub read.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.captions.text import count_tokens
from data_prep.inputs.captioning import LISTENING, tracks_to_hear
from data_prep.inputs.tracks import Sources, Track
from data_prep.output.selection import PreparedTrack, used_splits
from data_prep.tracks.measuring import parse_attributes
from data_prep.tracks.track_store import TrackResult
from data_prep.writers.formats import Shard, fingerprint
from riffusion_train.config.prepare import PrepareConfig, Windows, Writer
from riffusion_train.config.spectrogram import Channels, to_data
from riffusion_train.dataset.layout import COLUMNS, MANIFEST_FILE, SHARD_DIR, DatasetFolder, column_types
from riffusion_train.runtime.clip_bpe import MAX_TOKENS
from riffusion_train.runtime.files import is_url

TEMPO = "tempo_bpm"
_TEMPO_COLUMNS = ("bpm", "tempo")
_LOUDNESS_BINS = (-40.0, 0.0, 2.0)
"""Lower edge of the first bin, upper edge of the last, and width, in LUFS."""
_TEMPO_BINS = (40.0, 220.0, 10.0)
"""The same in beats per minute."""
_MOST_SHOWN = 5
"""Rejected tracks that are listed in full."""
_BYTES_PER_PIXEL = 0.45
"""Of a greyscale PNG; 300 spectrograms of 512 x 512 pixels took 106 kB each."""


def summarise(
    included: Sequence[PreparedTrack],
    results: Sequence[TrackResult],
    split_of: Mapping[str, str],
    shards: Sequence[Shard],
) -> dict[str, Any]:
    """Return the computed part of `stats.json`.

    Args:
        included: The tracks in the dataset.
        results: The results of all tracks.
        split_of: Split of each track.
        shards: The written shards.
    """
    captions = sorted(
        {caption for track, _ in included for own in (track.captions, *track.slice_captions) for caption in own}
    )
    tokens = count_tokens(captions)
    rejected = Counter(result.reason for result in results if result.reason is not None)
    loudness_lufs = [result.lufs for _, result in included if result.lufs is not None]
    return {
        "fingerprint": fingerprint(shards),
        "totals": totals([result for _, result in included]),
        "splits": {
            split: totals([result for track, result in included if split_of[track.track_id] == split])
            for split in used_splits(split_of.values())
        },
        "rejected": dict(sorted(rejected.items())),
        "warnings": dict(sorted(Counter(name for _, result in included for name in result.warnings).items())),
        "silent_slices": sum(result.silent_slices for result in results),
        "captions": len(captions),
        "caption_sources": dict(sorted(Counter(track.caption_source for track, _ in included).items())),
        "captions_a_track": spread([len(track.captions) for track, _ in included]),
        "caption_tokens": spread(tokens),
        "captions_cut_off": sum(count > MAX_TOKENS for count in tokens),
        "loudness_lufs": spread(loudness_lufs),
        "histograms": {
            "loudness_lufs": histogram(loudness_lufs, *_LOUDNESS_BINS),
            TEMPO: histogram(_tempos_bpm(track for track, _ in included), *_TEMPO_BINS),
        },
    }


def totals(results: Sequence[TrackResult]) -> dict[str, float]:
    """Return the numbers of tracks, slices and hours."""
    hours = sum(result.slices_s for result in results) / 3600
    return {"tracks": len(results), "slices": sum(result.slices for result in results), "hours": hours}


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """Return minimum, median and maximum; None if there are no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return {"min": ordered[0], "median": ordered[len(ordered) // 2], "max": ordered[-1]}


def histogram(values: Sequence[float], lowest: float, highest: float, step: float) -> dict[str, Any] | None:
    """Count values in bins of equal width; values outside count in the bins at the ends.

    Args:
        values: The values.
        lowest: Lower edge of the first bin.
        highest: Upper edge of the last bin, a whole number of steps above `lowest`.
        step: Width of a bin.

    Returns:
        `counts` from the first non-empty bin to the last, `start`, the lower edge of the first of them, and `step`; None if
        there are no values.
    """
    if not values:
        return None
    last = round((highest - lowest) / step) - 1
    counted = Counter(min(max(math.floor((value - lowest) / step), 0), last) for value in values)
    first, end = min(counted), max(counted) + 1
    return {"start": lowest + first * step, "step": step, "counts": [counted[index] for index in range(first, end)]}


def _tempos_bpm(tracks: Iterable[Track]) -> list[float]:
    """Return the tempo of each track that has one, measured or from a table or tag."""
    tempos_bpm = []
    for track in tracks:
        values = (track.columns.get(name) for name in _TEMPO_COLUMNS)
        tempo = next(
            (value for value in values if isinstance(value, int | float) and not isinstance(value, bool)), None
        )
        if tempo is not None and math.isfinite(tempo) and tempo > 0:
            tempos_bpm.append(float(tempo))
    return tempos_bpm


def report_lines(folder: DatasetFolder, name: str) -> list[str]:
    """Return the report on a finished dataset under a name: its splits, and what was left out and why."""
    stats = folder.stats
    lines = [f"{name}: {counts_text(stats['totals'])}"]
    lines += [f"  {split:<11} {counts_text(counts)}" for split, counts in stats["splits"].items()]
    if "validation" not in stats["splits"]:
        lines.append("  no validation split: it takes at least two tracks or artists, and validation_ratio above 0")
    if sources := stats.get("caption_sources"):
        named = [f"{count} {'by' if name == LISTENING else 'from'} {name}" for name, count in sources.items()]
        lines.append(f"  captions: {', '.join(named)}")
    if stats["silent_slices"]:
        lines.append(f"  {stats['silent_slices']} silent windows left out")
    if cut_off := stats.get("captions_cut_off"):
        lines.append(f"  {cut_off} captions have more than {MAX_TOKENS} tokens: the model will not see their ends")
    if warnings := stats.get("warnings"):
        counted = ", ".join(f"{count} {name}" for name, count in warnings.items())
        lines.append(f"  used with a warning: {counted}; each is listed in {MANIFEST_FILE}")
    rejected = stats["rejected"]
    if rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
        lines.append(f"  {sum(rejected.values())} rejected: {reasons}; each is listed in {MANIFEST_FILE}")
        lines += _first_rejected(folder)
    return lines


def _first_rejected(folder: DatasetFolder) -> list[str]:
    with (folder.path / MANIFEST_FILE).open(encoding="utf-8") as manifest:
        entries = [entry for entry in map(json.loads, manifest) if entry["status"] == "rejected"]
    lines = [f"    {entry['source']}: {entry['reason']}: {entry['detail']}" for entry in entries[:_MOST_SHOWN]]
    return lines + ([f"    … and {len(entries) - _MOST_SHOWN} more"] if len(entries) > _MOST_SHOWN else [])


def counts_text(counts: Mapping[str, float]) -> str:
    """Return for example `1 track, 12 slices, 0.02 h`."""
    named = [f"{counts[name]} {name if counts[name] != 1 else name[:-1]}" for name in ("tracks", "slices")]
    return ", ".join([*named, f"{counts['hours']:.2f} h"])


def estimate_lines(sources: Sources, config: PrepareConfig) -> list[str]:
    """Return the report of a dry run: tracks, hours, slices, bytes, and what is rejected already."""
    usable = [track for track in sources.tracks if track.rejection is None]
    durations_s = [declared_s(track.locator) for track in usable]
    known_s = [duration_s for duration_s in durations_s if duration_s is not None]
    slices = sum(_count_slices(duration_s, config) for duration_s in known_s)
    to_hear = len(tracks_to_hear(sources, config, parse_attributes(config.measure)))
    spectrogram = config.spectrogram
    layers = 1 if spectrogram.channels is Channels.mono else 2
    image_bytes = _BYTES_PER_PIXEL * layers * spectrogram.n_mels * spectrogram.width_px
    lines = [
        f"{config.out} would hold about {slices} slices of {len(known_s)} tracks, {sum(known_s) / 3600:.2f} h of audio",
        f"  about {slices * image_bytes / 1e6:.0f} MB; twice as much is needed on the disk while it is made",
        f"  captions on {sum(bool(track.captions) for track in usable)} of {len(usable)} tracks"
        + (f"; {to_hear} would be captioned by listening" if to_hear else ""),
    ]
    if len(known_s) < len(usable):
        lines.append(
            f"  {len(usable) - len(known_s)} files are not counted: they are behind URLs, or their headers give no duration"
        )
    rejected = [track for track in sources.tracks if track.rejection is not None]
    lines += [
        f"  rejected: {track.source}: {track.rejection.reason}" for track in rejected[:_MOST_SHOWN] if track.rejection
    ]
    more = len(rejected) - _MOST_SHOWN
    return lines + ([f"  … and {more} more rejected"] if more > 0 else [])


def declared_s(locator: str) -> float | None:
    """Return the duration in seconds that the header of a local file declares; None if it does not."""
    import soundfile

    if is_url(locator) or not Path(locator).is_file():
        return None
    try:
        return float(soundfile.info(locator).duration)
    except (soundfile.SoundFileError, RuntimeError):
        return _container_duration_s(locator)


def _container_duration_s(path: str) -> float | None:
    import av

    try:
        with av.open(path) as container:
            return container.duration / av.time_base if container.duration and container.streams.audio else None
    except (av.FFmpegError, ValueError, OSError, UnicodeDecodeError):
        return None


def _count_slices(duration_s: float, config: PrepareConfig) -> int:
    clip_s, stride_s = config.spectrogram.clip_s, config.clip_stride_s
    full = math.floor((duration_s - clip_s) / stride_s) + 1 if duration_s >= clip_s else 0
    rest_s = duration_s - full * stride_s
    padded = int(config.windows is Windows.fixed and config.shortest_clip_s <= rest_s < clip_s)
    count = full + padded + (config.random_crops if full else 0)
    return count if config.max_slices_per_track is None else min(count, config.max_slices_per_track)


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
    ends = (f"{low:g} and {high:g} {unit}" for (low, high, _), unit in ((_LOUDNESS_BINS, "LUFS"), (_TEMPO_BINS, "bpm")))
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
