"""From kept slices to the finished dataset: splits, shards, manifest, statistics, card."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep.atomic import write_atomically
from data_prep.balance import choose_slices, with_chosen
from data_prep.card import card_text, contact_sheet
from data_prep.duplicates import likeness_keys
from data_prep.kept import TrackFacts, kept_path, read_slices
from data_prep.output import PICTURES_DIR, Output, json_bytes
from data_prep.splits import SplitMember, assign_splits, used_splits
from data_prep.tokens import MAX_TOKENS, count_tokens
from data_prep.tracks import Sources, Track
from data_prep.writer import Shard, ShardWriter, fingerprint
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.config.spectrogram import write_spectrogram
from riffusion_train.dataset import layout

_PICTURES = 12


def assemble(
    config: PrepareConfig,
    sources: Sources,
    facts: Sequence[TrackFacts],
    output: Output,
    key: str,
    parameters: Mapping[str, Any],
    digest: str,
    command: str,
) -> None:
    """Write the whole dataset into `output.assembled`.

    Args:
        config: The run's config.
        sources: All tracks.
        facts: What became of each track, in the same order.
        output: Where the kept slices are, and where the dataset goes.
        key: Hash of the cutting parameters.
        parameters: All settings, for `stats.json`.
        digest: Hash of the sources, for `stats.json`.
        command: The command line, for the card.
    """
    kept = [(track, fact) for track, fact in zip(sources.tracks, facts, strict=True) if fact.reason is None]
    alike = likeness_keys([fact for _, fact in kept], config)
    members = [
        SplitMember(track.track_id, fact.sha256, track.artist, track.split, keys)
        for (track, fact), keys in zip(kept, alike, strict=True)
    ]
    split_of = assign_splits(members, config.seed, config.validation_ratio, config.test_ratio)
    chosen: dict[str, frozenset[int]] = {}
    if config.balance_column is not None:
        chosen = choose_slices(kept, split_of, config.balance_column, config.balance_ratio, config.seed)
        kept = with_chosen(kept, chosen, output.tracks, key)
    schema = layout.arrow_schema(sources.extra_types)
    shards: list[Shard] = []
    for split in used_splits(split_of.values()):
        in_split = [(track, fact) for track, fact in kept if split_of[track.track_id] == split]
        writer = ShardWriter(output.assembled / layout.SHARD_DIR, split, schema, config.shard_size_mb * 2**20)
        shards += writer.write(_rows(in_split, chosen, output, key))
    captions = sorted({caption for track, _ in kept for caption in track.captions})
    rejects = Counter(fact.reason for fact in facts if fact.reason is not None)
    stats = {
        "schema_version": layout.SCHEMA_VERSION,
        "fingerprint": fingerprint(shards),
        "totals": _totals([fact for _, fact in kept]),
        "splits": {
            split: _totals([fact for track, fact in kept if split_of[track.track_id] == split])
            for split in used_splits(split_of.values())
        },
        "rejected": dict(sorted(rejects.items())),
        "warnings": dict(sorted(Counter(doubt for _, fact in kept for doubt in fact.warnings).items())),
        "silent_slices": sum(fact.silent_slices for fact in facts),
        "captions": len(captions),
        "captions_cut_off": sum(count > MAX_TOKENS for count in count_tokens(captions)),
        "loudness_lufs": _spread([fact.lufs for _, fact in kept if fact.lufs is not None]),
        "parameters": dict(parameters),
        "sources_digest": digest,
        "shards": [dataclasses.asdict(shard) for shard in shards],
    }
    folder = output.assembled
    write_spectrogram(folder, config.spectrogram)
    manifest = "".join(_manifest_line(*pair, split_of) for pair in zip(sources.tracks, facts, strict=True))
    write_atomically(folder / layout.MANIFEST_FILE, manifest.encode())
    count = min(_PICTURES, len(kept))
    shown = [kept[index * len(kept) // count] for index in range(count)]
    (folder / PICTURES_DIR).mkdir()
    pngs = [next(read_slices(kept_path(output.tracks, fact.sha256, key))).png for _, fact in shown]
    write_atomically(folder / PICTURES_DIR / "contact_sheet.png", contact_sheet(pngs))
    samples = [(track.track_id, track.captions[0]) for track, _ in shown]
    card = card_text(stats, config.spectrogram, samples, sources.extra_types, command)
    write_atomically(folder / layout.CARD_FILE, card.encode())
    write_atomically(folder / layout.STATS_FILE, json_bytes(stats), sync=True)


def _rows(
    tracks: Sequence[tuple[Track, TrackFacts]], chosen: Mapping[str, frozenset[int]], output: Output, key: str
) -> Iterator[dict[str, Any]]:
    for track, fact in tracks:
        shared = {
            layout.CAPTION: list(track.captions),
            layout.TRACK_ID: track.track_id,
            layout.LOUDNESS_LUFS: fact.lufs,
            layout.SOURCE: track.source,
            **track.columns,
        }
        stay = chosen.get(track.track_id)
        for index, item in enumerate(read_slices(kept_path(output.tracks, fact.sha256, key))):
            if stay is not None and index not in stay:
                continue
            yield shared | {
                layout.IMAGE: {"bytes": item.png, "path": None},
                layout.START_S: item.start_s,
                layout.DURATION_S: item.duration_s,
                layout.MAX_VALUE: item.max_value,
            }


def _manifest_line(track: Track, fact: TrackFacts, split_of: Mapping[str, str]) -> str:
    facts = dataclasses.asdict(fact)
    line = {
        "source": track.source,
        "track_id": track.track_id,
        "sha256": facts.pop("sha256") or None,
        "status": "kept" if fact.reason is None else "rejected",
        "reason": facts.pop("reason"),
        "detail": facts.pop("detail"),
        "split": split_of.get(track.track_id),
        "captions": len(track.captions),
    }
    return json.dumps(line | facts, ensure_ascii=False) + "\n"


def _totals(facts: Sequence[TrackFacts]) -> dict[str, float]:
    hours = sum(fact.slices_s for fact in facts) / 3600
    return {"tracks": len(facts), "slices": sum(fact.slices for fact in facts), "hours": hours}


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return minimum, median and maximum; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return {"min": ordered[0], "median": ordered[len(ordered) // 2], "max": ordered[-1]}
