"""The way from what became of each track to the dataset in its place."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep.captions.compose import finish_captions, needs_work_first
from data_prep.inputs.tracks import Sources, Track, with_columns
from data_prep.output.card import card_text
from data_prep.output.filters import judge, likeness_keys
from data_prep.output.folder import LEFT_OUT_DIR, PICTURES_DIR, Output, json_bytes
from data_prep.output.splits import SplitMember, assign_splits, choose_slices, used_splits, with_chosen
from data_prep.output.stats import TEMPO, counts_text, report_lines, summarise
from data_prep.output.track_store import TrackResult, kept_path, parameters_key, read_slices
from data_prep.run import cut_data, make_cut_parameters
from data_prep.writers.choose import check_columns, make_writer
from data_prep.writers.shards import Row, Shard
from riffusion_train.audio.plots import contact_sheet, histogram_image
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.config.spectrogram import write_spectrogram
from riffusion_train.dataset import layout
from riffusion_train.dataset.layout import SHARD_DIR, DatasetFolder, open_dataset_folder
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import link_or_copy, write_atomically
from riffusion_train.runtime.hub import push


def finish_dataset(
    config: PrepareConfig,
    sources: Sources,
    facts: Sequence[TrackResult],
    output: Output,
    parameters: Mapping[str, Any],
    command: str,
) -> DatasetFolder:
    """Decide about all tracks together, write the dataset, and put it in its place.

    Args:
        config: The run's config.
        sources: All tracks, as they were found.
        facts: What became of each track, in the same order.
        output: The output folder, locked; the slices lie in it.
        parameters: All settings, for `stats.json`.
        command: The command line, for the card.

    Raises:
        InputError: If no track can be used.
        OSError: If the disk is full; the same command goes on.
    """
    digest = sources.digest()
    if needs_work_first(config):
        found = with_columns(sources, [fact.tags | fact.measured for fact in facts])
        sources = finish_captions(found, config)
        check_columns(config, sources.extra_types)
    judged = judge(sources.tracks, facts, config)
    if all(fact.reason is not None for fact in judged):
        output.clear()  # nothing is worth keeping, and the mend may be another setting
        raise InputError(_why_nothing(sources.tracks, judged))
    key = parameters_key(cut_data(make_cut_parameters(config)))
    assemble(config, sources, judged, output, key, parameters, digest, command)
    output.finish()
    folder = open_dataset_folder(output.folder)
    print("\n".join(report_lines(folder)))
    return folder


def find_complete(
    output: Output, parameters: Mapping[str, Any], digest: str, overwrite: bool, licence: str
) -> DatasetFolder | None:
    """Open the dataset that is asked for where it is there already; None where there is something to do.

    Raises:
        InputError: As `Output.is_complete` does.
    """
    if not output.is_complete(parameters, digest, overwrite, licence):
        return None
    if output.work.is_dir():  # the last run was killed after its last rename
        with output.locked():
            output.clear()
    folder = open_dataset_folder(output.folder)
    print(f"{output.folder} is complete: {counts_text(folder.stats['totals'])}; nothing to do")
    return folder


def push_dataset(folder: DatasetFolder, repository: str, *, private: bool, endpoint: str | None = None) -> str:
    """Upload a finished dataset, in place of what the repository held of an earlier one; see `hub.push`."""
    stays = f"{folder.path} stays, run the same command again to push it"
    replaces = [
        f"{SHARD_DIR}/*",
        f"{PICTURES_DIR}/*",
    ]  # a shard of an earlier, larger dataset would be read along with the new ones
    return push(
        folder.path, repository, private=private, kind="dataset", replaces=replaces, stays=stays, endpoint=endpoint
    )


def _why_nothing(tracks: Sequence[Track], facts: Sequence[TrackResult]) -> str:
    counted = "the one track" if len(tracks) == 1 else f"any of {len(tracks)} tracks"
    return f"cannot use {counted}; the first, {tracks[0].source}: {facts[0].reason}: {facts[0].detail}"


_PICTURES = 12
_CHARTS = {"loudness_lufs": ("Loudness of the tracks", "LUFS"), TEMPO: ("Tempo of the tracks", "bpm")}

Kept = Sequence[tuple[Track, TrackResult]]


def assemble(
    config: PrepareConfig,
    sources: Sources,
    facts: Sequence[TrackResult],
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
    kept: Kept = [(track, fact) for track, fact in zip(sources.tracks, facts, strict=True) if fact.reason is None]
    split_of = _splits(kept, config)
    chosen: dict[str, frozenset[int]] = {}
    whole = kept
    if config.balance_column is not None:
        chosen = choose_slices(kept, split_of, config.balance_column, config.balance_ratio, config.seed)
        whole = [
            (track, fact) for track, fact in kept if len(chosen.get(track.track_id, range(fact.slices))) == fact.slices
        ]
        kept = with_chosen(kept, chosen, output.tracks, key)
    schema = layout.arrow_schema(sources.extra_types)
    shards: list[Shard] = []
    for split in used_splits(split_of.values()):
        in_split = [(track, fact) for track, fact in kept if split_of[track.track_id] == split]
        writer = make_writer(config, output.assembled / layout.SHARD_DIR, split, schema)
        shards += writer.write(_rows(in_split, chosen, output, key))
    _keep_left_out({fact.file_hash for fact in facts} - {fact.file_hash for _, fact in whole}, output, key)
    stats = {
        "schema_version": layout.SCHEMA_VERSION,
        **summarise(kept, facts, split_of, shards),
        "license": config.license,
        "parameters": dict(parameters),
        "sources_digest": digest,
        "shards": [dataclasses.asdict(shard) for shard in shards],
    }
    folder = output.assembled
    write_spectrogram(folder, config.spectrogram)
    manifest = "".join(_manifest_line(*pair, split_of) for pair in zip(sources.tracks, facts, strict=True))
    write_atomically(folder / layout.MANIFEST_FILE, manifest.encode())
    shown = _shown(kept)
    samples = [(track.track_id, track.captions[0]) for track, _ in shown]
    charts = _write_pictures(shown, stats["histograms"], output, key)
    card = card_text(stats, config, samples, sources.extra_types, charts, command)
    write_atomically(folder / layout.CARD_FILE, card.encode())
    write_atomically(folder / layout.STATS_FILE, json_bytes(stats), sync=True)


def _splits(kept: Kept, config: PrepareConfig) -> dict[str, str]:
    alike = likeness_keys([fact for _, fact in kept], config)
    members = [
        SplitMember(track.track_id, fact.file_hash, track.artist, track.split, keys)
        for (track, fact), keys in zip(kept, alike, strict=True)
    ]
    return assign_splits(members, config.seed, config.validation_ratio, config.test_ratio)


def _keep_left_out(hashes: set[str], output: Output, key: str) -> None:
    """Keep what was found or cut and is not, or not wholly, in the dataset, so that extending it does not do it anew."""
    for file_hash in sorted(hashes - {""}):
        path = kept_path(output.tracks, file_hash, key)
        if path.is_file():
            link_or_copy(path, output.assembled / LEFT_OUT_DIR / path.name)


def _shown(kept: Kept) -> Kept:
    """Return tracks for the card, evenly spread over all."""
    count = min(_PICTURES, len(kept))
    return [kept[index * len(kept) // count] for index in range(count)]


def _write_pictures(shown: Kept, histograms: Mapping[str, Any], output: Output, key: str) -> list[str]:
    """Write the card's pictures. Returns the names of the charts."""
    folder = output.assembled / PICTURES_DIR
    pngs = [next(read_slices(kept_path(output.tracks, fact.file_hash, key))).png for _, fact in shown]
    write_atomically(folder / "contact_sheet.png", contact_sheet(pngs))
    charts = []
    for name, (title, unit) in _CHARTS.items():
        if histograms[name] is not None:
            charts.append(f"{name}.png")
            write_atomically(folder / charts[-1], histogram_image(title, unit, **histograms[name]))
    return charts


def _rows(tracks: Kept, chosen: Mapping[str, frozenset[int]], output: Output, key: str) -> Iterator[Row]:
    for track, fact in tracks:
        shared = {
            layout.CAPTION: list(track.captions),
            layout.TRACK_ID: track.track_id,
            layout.LOUDNESS_LUFS: fact.lufs,
            layout.SOURCE: track.source,
            **track.columns,
        }
        stay = chosen.get(track.track_id)
        for index, item in enumerate(read_slices(kept_path(output.tracks, fact.file_hash, key))):
            if stay is not None and index not in stay:
                continue
            yield shared | {
                layout.IMAGE: {"bytes": item.png, "path": None},
                layout.START_S: item.start_s,
                layout.DURATION_S: item.duration_s,
                layout.MAX_VALUE: item.max_value,
            }


def _manifest_line(track: Track, fact: TrackResult, split_of: Mapping[str, str]) -> str:
    facts = dataclasses.asdict(fact)
    del facts["reused"]
    if fact.origin is None:
        del facts["origin"]
    line = {
        "source": track.source,
        "track_id": track.track_id,
        "file_hash": facts.pop("file_hash") or None,
        "status": "kept" if fact.reason is None else "rejected",
        "reason": facts.pop("reason"),
        "detail": facts.pop("detail"),
        "split": split_of.get(track.track_id),
        "captions": len(track.captions),
    }
    return json.dumps(line | facts, ensure_ascii=False) + "\n"
