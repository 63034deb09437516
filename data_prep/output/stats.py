"""Statistics: those of a dataset, for `stats.json`; the report on them; and the estimate of a dry run."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.captions.text import count_tokens
from data_prep.inputs.captioning import LISTENING, tracks_to_hear
from data_prep.inputs.tracks import Sources, Track
from data_prep.output.filters import PreparedTrack
from data_prep.output.splits import used_splits
from data_prep.tracks.measuring import parse_attributes
from data_prep.tracks.track_store import TrackResult
from data_prep.writers.shards import Shard, fingerprint
from riffusion_train.config.prepare import PrepareConfig, Windows
from riffusion_train.config.spectrogram import Channels
from riffusion_train.dataset.layout import MANIFEST_FILE, DatasetFolder
from riffusion_train.runtime.clip_bpe import MAX_TOKENS
from riffusion_train.runtime.files import is_url

TEMPO = "tempo_bpm"
_TEMPO_COLUMNS = ("bpm", "tempo")
LOUDNESS_BINS = (-40.0, 0.0, 2.0)
"""Lower edge of the first bin, upper edge of the last, and width, in LUFS."""
TEMPO_BINS = (40.0, 220.0, 10.0)
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
            "loudness_lufs": histogram(loudness_lufs, *LOUDNESS_BINS),
            TEMPO: histogram(_tempos_bpm(track for track, _ in included), *TEMPO_BINS),
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


def report_lines(folder: DatasetFolder) -> list[str]:
    """Return the report on a finished dataset: its splits, and what was left out and why."""
    stats = folder.stats
    lines = [f"{folder.path}: {counts_text(stats['totals'])}"]
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
