"""From the results of all tracks to the finished dataset: captions, filters, splits, shards, statistics, card."""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.captions.captioner import make_captioner
from data_prep.captions.listening import Heard, HeardFile
from data_prep.inputs.captioning import (
    CAPTIONER_FAILED,
    CHECK_WARNINGS,
    LISTENING,
    ask_captioner,
    captions_need_audio,
    check_sources,
    finish_captions,
)
from data_prep.inputs.tracks import Track, with_columns
from data_prep.output.folder import CAPTIONER_DIR, PICTURES_DIR, OutputFolder, PrepareRun
from data_prep.output.page import PageOptions, is_current, page_line, write_page
from data_prep.output.selection import (
    PreparedTrack,
    SplitMember,
    apply_filters,
    assign_splits,
    choose_slices,
    likeness_keys,
    used_splits,
    with_chosen,
)
from data_prep.output.stats import TEMPO, card_text, counts_text, report_lines, summarise
from data_prep.tracks.track_store import Slice, TrackResult, TrackStore
from data_prep.writers import check_columns, make_writer, read_rows
from data_prep.writers.formats import Row, Shard
from riffusion_train.audio.plots import contact_sheet, histogram_image
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.config.spectrogram import write_spectrogram
from riffusion_train.dataset import layout
from riffusion_train.dataset.layout import PAGE_DIR, PAGE_FILE, SHARD_DIR, DatasetFolder
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import is_url, write_atomically, write_json
from riffusion_train.runtime.hub import push

_NUM_EXAMPLES = 12
"""Tracks shown in the card."""
_CHARTS = {"loudness_lufs": ("Loudness of the tracks", "LUFS"), TEMPO: ("Tempo of the tracks", "bpm")}


def find_complete(run: PrepareRun, output: OutputFolder) -> DatasetFolder | None:
    """Open the dataset that a run makes if it is complete already; None if there is something to do.

    Raises:
        InputError: As `OutputFolder.is_complete` does.
    """
    if not output.is_complete(run):
        return None
    if output.work.is_dir():  # the last run was killed after it had moved everything into place
        with output.locked():
            output.clear()
    folder = output.dataset()
    print(f"{output.name} is complete: {counts_text(folder.stats['totals'])}; nothing to do")
    _update_page(folder, run.config)
    return folder


def finish_dataset(run: PrepareRun, results: Sequence[TrackResult], output: OutputFolder) -> DatasetFolder:
    """Decide about all tracks together, write the dataset, and move it into place.

    Args:
        run: The run, with all tracks as they were found.
        results: The result of each track, in the same order.
        output: The output folder, locked; its store holds the slices.

    Raises:
        InputError: If no track can be used.
        OSError: If the disk is full; the same command continues.
    """
    if captions_need_audio(run.config):
        sources = with_columns(run.sources, [result.tags | result.measured for result in results])
        check_columns(run.config, sources.extra_types)
        run = _ask_captioner(dataclasses.replace(run, sources=sources), results, output)
    files = [
        HeardFile(result.file_hash, None if result.heard is None else Heard.from_data(result.heard))
        for result in results
    ]
    sources = finish_captions(run.sources, run.config, files)
    run = dataclasses.replace(run, sources=check_sources(sources, files, run.config.check_captions))
    results = apply_filters(run.sources.tracks, results, run.config)
    if all(result.reason is not None for result in results):
        output.clear()  # there is nothing to keep, and the fix may need other settings
        raise InputError(_no_usable_track(run.sources.tracks, results))
    assemble(run, results, output)
    output.finish()
    folder = output.dataset()
    print("\n".join(report_lines(folder, output.name)))
    _update_page(folder, run.config)
    return folder


def _ask_captioner(run: PrepareRun, results: Sequence[TrackResult], output: OutputFolder) -> PrepareRun:
    """Return the run with the captions of the captioner that its config names.

    Where it failed, the digest changes, so that the same command asks again about these tracks.
    """
    if run.config.captioner is None:
        return run
    file_hashes = ["" if result.reason is not None else result.file_hash for result in results]
    captioner = make_captioner(run.config)
    try:
        sources, failed = ask_captioner(run.sources, file_hashes, captioner, output.folder / CAPTIONER_DIR)
    finally:
        output.keep_answers()
    digest = f"{run.digest}, {failed} without the captioner's captions" if failed else run.digest
    return dataclasses.replace(run, sources=sources, digest=digest)


def _update_page(folder: DatasetFolder, config: PrepareConfig) -> None:
    """Write the dataset page if the config asks for one and it is not there yet."""
    options = PageOptions.from_config(config)
    if is_url(config.out):
        if config.page:
            print("  no page: it opens from a disk; fetch the dataset, and run riffusion prepare page out=FOLDER")
    elif not config.page:
        shutil.rmtree(folder.path / PAGE_DIR, ignore_errors=True)
        (folder.path / PAGE_FILE).unlink(missing_ok=True)
    elif not is_current(folder, options):
        write_page(folder, options)
        print(page_line(folder))


def push_dataset(
    folder: DatasetFolder, repository: str, *, private: bool, page: bool = False, endpoint: str | None = None
) -> str:
    """Upload a finished dataset, replacing an earlier one in the repository, with its page or not; see `hub.push`."""
    stays = f"{folder.path} stays, run the same command again to push it"
    # A shard of an earlier, larger dataset would be read along with the new ones.
    replaces = [f"{SHARD_DIR}/*", f"{PICTURES_DIR}/*"]
    page_files = [PAGE_FILE, f"{PAGE_DIR}/*"]
    return push(
        *(folder.path, repository),
        private=private,
        kind="dataset",
        replaces=[*replaces, *page_files] if page else replaces,
        leaves_out=() if page else page_files,
        stays=stays,
        endpoint=endpoint,
    )


def _no_usable_track(tracks: Sequence[Track], results: Sequence[TrackResult]) -> str:
    counted = "the one track" if len(tracks) == 1 else f"any of {len(tracks)} tracks"
    return f"cannot use {counted}; the first, {tracks[0].source}: {results[0].reason}: {results[0].detail}"


def assemble(run: PrepareRun, results: Sequence[TrackResult], output: OutputFolder) -> None:
    """Write the whole dataset into `output.assembled`.

    Args:
        run: The run, with the final captions.
        results: The filtered result of each track, in the same order.
        output: The output folder; its store holds the slices.
    """
    config, sources, store = run.config, run.sources, output.store(run.key)
    pairs = [PreparedTrack(*pair) for pair in zip(sources.tracks, results, strict=True)]
    included = [pair for pair in pairs if pair.result.reason is None]
    split_of = _assign_splits(included, config)
    chosen: dict[str, frozenset[int]] = {}
    complete = included
    if config.balance_column is not None:
        chosen = choose_slices(included, split_of, config.balance_column, config.balance_ratio, config.seed)
        complete = [
            pair
            for pair in included
            if len(chosen.get(pair.track.track_id, range(pair.result.slices))) == pair.result.slices
        ]
        included = with_chosen(included, chosen, store)
    shards = _write_shards(run, included, split_of, chosen, output)
    # What was cut and is not, or not completely, in the dataset: extending it later need not cut it again.
    left_out = {result.file_hash for result in results} - {pair.result.file_hash for pair in complete} - {""}
    output.keep_left_out(run.key, sorted(left_out))
    stats = {
        "schema_version": layout.SCHEMA_VERSION,
        **summarise(included, results, split_of, shards),
        "license": config.license,
        **({"language": config.language} if config.language else {}),
        "parameters": dict(run.parameters),
        "sources_digest": run.digest,
        "shards": [dataclasses.asdict(shard) for shard in shards],
    }
    folder = output.assembled
    write_spectrogram(folder, config.spectrogram)
    manifest = "".join(_manifest_line(pair, split_of) for pair in pairs)
    write_atomically(folder / layout.MANIFEST_FILE, manifest)
    count = min(_NUM_EXAMPLES, len(included))
    examples = [included[index * len(included) // count] for index in range(count)]  # evenly spread
    charts = _write_card_images(examples, stats["histograms"], output, store)
    samples = [(pair.track.track_id, pair.track.captions[0]) for pair in examples]
    card = card_text(stats, config, samples, sources.extra_types, charts, run.command)
    write_atomically(folder / layout.CARD_FILE, card)
    write_json(folder / layout.STATS_FILE, stats, sync=True)


def _assign_splits(included: Sequence[PreparedTrack], config: PrepareConfig) -> dict[str, str]:
    alike = likeness_keys([result for _, result in included], config)
    members = [
        SplitMember(track.track_id, result.file_hash, track.artist, track.split, keys)
        for (track, result), keys in zip(included, alike, strict=True)
    ]
    return assign_splits(members, config.seed, config.validation_ratio, config.test_ratio)


def _write_shards(
    run: PrepareRun,
    included: Sequence[PreparedTrack],
    split_of: Mapping[str, str],
    chosen: Mapping[str, frozenset[int]],
    output: OutputFolder,
) -> list[Shard]:
    schema = layout.arrow_schema(run.sources.extra_types)
    store = output.store(run.key)
    shards: list[Shard] = []
    for split in used_splits(split_of.values()):
        in_split = [pair for pair in included if split_of[pair.track.track_id] == split]
        writer = make_writer(run.config, output.assembled / SHARD_DIR, split, schema, output.keep_shard)
        shards += writer.write(_rows(in_split, chosen, store))
    return shards


def _rows(tracks: Sequence[PreparedTrack], chosen: Mapping[str, frozenset[int]], store: TrackStore) -> Iterator[Row]:
    """Yield a row for each slice; of a track in `chosen` only the slices with these numbers."""
    all_slices = store.slices_of(result.file_hash for _, result in tracks)
    for (track, result), slices in zip(tracks, all_slices, strict=True):
        shared = {
            layout.CAPTION: list(track.captions),
            layout.TRACK_ID: track.track_id,
            layout.LOUDNESS_LUFS: result.lufs,
            layout.SOURCE: track.source,
            **track.columns,
        }
        numbers = chosen.get(track.track_id)
        for number, item in enumerate(slices):
            if numbers is not None and number not in numbers:
                continue
            own = {layout.CAPTION: list(track.slice_captions[number])} if track.slice_captions else {}
            yield (
                shared
                | own
                | {
                    layout.IMAGE: {"bytes": item.png, "path": None},
                    layout.START_S: item.start_s,
                    layout.DURATION_S: item.duration_s,
                    layout.MAX_VALUE: item.max_value,
                }
            )


def _manifest_line(pair: PreparedTrack, split_of: Mapping[str, str]) -> str:
    track, result = pair
    fields = dataclasses.asdict(result)
    del fields["reused"]
    for name in ("origin", "heard"):
        if fields[name] is None:
            del fields[name]
    line = {
        "source": track.source,
        "track_id": track.track_id,
        "file_hash": fields.pop("file_hash") or None,
        "status": "kept" if result.reason is None else "rejected",
        "reason": fields.pop("reason"),
        "detail": fields.pop("detail"),
        "split": split_of.get(track.track_id),
        "captions": len(track.captions),
    }
    if track.caption_source == LISTENING:  # the rows of the dataset hold those of each slice
        line["listened"] = list(track.captions)
    return json.dumps(line | fields, ensure_ascii=False) + "\n"


def _write_card_images(
    examples: Sequence[PreparedTrack], histograms: Mapping[str, Any], output: OutputFolder, store: TrackStore
) -> list[str]:
    """Write the contact sheet and the histograms of the card. Returns the file names of the histograms."""
    folder = output.assembled / PICTURES_DIR
    pngs = [next(store.read_slices(pair.result.file_hash)).png for pair in examples]
    write_atomically(folder / "contact_sheet.png", contact_sheet(pngs))
    charts = []
    for name, (title, unit) in _CHARTS.items():
        if histograms[name] is not None:
            charts.append(f"{name}.png")
            write_atomically(folder / charts[-1], histogram_image(title, unit, **histograms[name]))
    return charts


_RESULT_FIELDS = {field.name for field in dataclasses.fields(TrackResult)}
_FILTER_WARNINGS = ("misnamed", "clipped", CAPTIONER_FAILED, *CHECK_WARNINGS)
"""Warnings that are added again once all tracks are known."""


def restore_tracks(output: OutputFolder, key: str) -> int:
    """Fill the track store of a finished dataset, as if its tracks had just been cut, so that it can be extended.

    Args:
        output: The dataset, which was made with the same parameters.
        key: Their key.

    Returns:
        The number of tracks with slices.
    """
    dataset, store = output.dataset(), output.store(key)
    results = _results_of(dataset.path / layout.MANIFEST_FILE)
    for result in results.values():
        if result.origin:
            store.write_origin(result.origin, result.file_hash)
    count = 0
    left_out = output.cut_before(key)
    for file_hash in left_out.file_hashes():
        left_out.share(file_hash, store)
        count += bool(getattr(left_out.read(file_hash), "slices", 0))
    rows = (row for split in layout.SPLITS for row in read_rows(dataset, split, output.opened))
    for track_id, own_rows in itertools.groupby(rows, key=lambda row: str(row[layout.TRACK_ID])):
        slices = [
            Slice(row[layout.IMAGE]["bytes"], row[layout.START_S], row[layout.DURATION_S], row[layout.MAX_VALUE])
            for row in own_rows
        ]
        known = results.get(track_id)
        if known is None or known.reason is not None or known.slices != len(slices):
            continue  # some of its slices were left out, for example by balancing, so it is in `left_out`
        if store.read(known.file_hash) is None:
            store.write(dataclasses.replace(known, origin=None), slices)
        count += 1
    return count


def _results_of(manifest: Path) -> dict[str, TrackResult]:
    """Return the results in a manifest by track id, as they were before the filters."""
    results = {}
    with manifest.open(encoding="utf-8") as lines:
        for entry in map(json.loads, lines):
            if "file_hash" not in entry:
                continue  # from a version that did not record it: the track is cut again
            result = TrackResult(**{name: value for name, value in entry.items() if name in _RESULT_FIELDS})
            warnings = {name: text for name, text in result.warnings.items() if name not in _FILTER_WARNINGS}
            results[entry["track_id"]] = dataclasses.replace(
                result, warnings=warnings, file_hash=result.file_hash or ""
            )
    return results
