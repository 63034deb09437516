"""What a finished run prints."""

import json
from collections.abc import Mapping

from data_prep.tokens import MAX_TOKENS
from riffusion_train.dataset.layout import MANIFEST_FILE, DatasetFolder

_SHOWN = 5


def report_lines(folder: DatasetFolder) -> list[str]:
    """Return the report on a dataset: splits, what was left out and why, where it is."""
    stats = folder.stats
    lines = [f"{folder.path}: {counts_text(stats['totals'])}"]
    lines += [f"  {split:<11} {counts_text(counts)}" for split, counts in stats["splits"].items()]
    if "validation" not in stats["splits"]:
        lines.append("  no validation split: it takes at least two tracks or artists, and validation_ratio above 0")
    if stats["silent_slices"]:
        lines.append(f"  {stats['silent_slices']} silent windows left out")
    if cut_off := stats.get("captions_cut_off"):
        lines.append(f"  {cut_off} captions have more than {MAX_TOKENS} tokens: the model will not see their ends")
    if warnings := stats.get("warnings"):
        told = ", ".join(f"{count} {doubt}" for doubt, count in warnings.items())
        lines.append(f"  used with a warning: {told}; each is listed in {MANIFEST_FILE}")
    rejected = stats["rejected"]
    if rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
        lines.append(f"  {sum(rejected.values())} rejected: {reasons}; each is listed in {MANIFEST_FILE}")
        lines += _first_rejected(folder)
    return lines


def _first_rejected(folder: DatasetFolder) -> list[str]:
    with (folder.path / MANIFEST_FILE).open(encoding="utf-8") as manifest:
        entries = [entry for entry in map(json.loads, manifest) if entry["status"] == "rejected"]
    lines = [f"    {entry['source']}: {entry['reason']}: {entry['detail']}" for entry in entries[:_SHOWN]]
    return lines + ([f"    … and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else [])


def counts_text(counts: Mapping[str, float]) -> str:
    """Return for example `1 track, 12 slices, 0.02 h`."""
    named = [f"{counts[name]} {name if counts[name] != 1 else name[:-1]}" for name in ("tracks", "slices")]
    return ", ".join([*named, f"{counts['hours']:.2f} h"])
