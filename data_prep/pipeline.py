"""`prepare`: from a folder of captioned audio to a finished dataset folder, in processes, stoppable and resumable."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from data_prep.assembly import assemble
from data_prep.beats import check_librosa
from data_prep.captioning import add_path_fields, finish_captions, needs_work_first
from data_prep.estimate import estimate_lines
from data_prep.extending import keep_finished
from data_prep.kept import TrackFacts, parameters_key
from data_prep.on_ray import check_ray
from data_prep.output import Output
from data_prep.parameters import cut_data, make_cut_parameters, parameters_of
from data_prep.policy import judge
from data_prep.report import counts_text, report_lines
from data_prep.review import review_path, write_review
from data_prep.running import work_on_tracks
from data_prep.sources import find_sources
from data_prep.tracks import Sources, Track, with_columns
from riffusion_train.config.errors import InputError
from riffusion_train.config.prepare import CaptionSource, Engine, PrepareConfig, Windows
from riffusion_train.config.prepare_checks import check_prepare
from riffusion_train.dataset.layout import DatasetFolder, open_dataset_folder, read_stats


def run(config: PrepareConfig, command: str = "") -> None:
    """Do what the verb is asked for: prepare, tell what would be made, or write the captions to review; see `prepare`."""
    check_prepare(config)
    if config.captions is CaptionSource.review and not review_path(config).is_file():
        print(write_review(config, review_path(config)))
        return
    if config.dry_run:
        print("\n".join(estimate_lines(make_sources(config), config)))
        return
    prepare(config, command)


def prepare(config: PrepareConfig, command: str = "") -> DatasetFolder:
    """Make a dataset folder, or go on with one that a stopped or killed run has begun.

    Args:
        config: What to do.
        command: The command line, for the dataset card.

    Raises:
        InputError: If the input cannot be used, or the output folder holds something else.
        StoppedError: On SIGINT or SIGTERM; the same command goes on.
        OSError: If the disk is full; the same command goes on.
    """
    check_prepare(config)
    if config.windows is not Windows.fixed:
        check_librosa()
    if config.engine is Engine.ray:
        check_ray()
    out = Path(config.out)
    sources = make_sources(config)
    output = Output(out)
    parameters = parameters_of(config)
    digest = sources.digest()
    if output.is_complete(parameters, digest, config.overwrite):
        if output.work.is_dir():  # the last run was killed after its last rename
            with output.locked():
                output.clear()
        folder = open_dataset_folder(out)
        print(f"{out} is complete: {counts_text(folder.stats['totals'])}; nothing to do")
        return folder
    with output.locked():
        output.begin(parameters)
        key = parameters_key(cut_data(make_cut_parameters(config)))
        if not config.overwrite and read_stats(out) is not None:
            count = keep_finished(open_dataset_folder(out), output.tracks, key)
            print(f"{out} is extended: the slices of {count} tracks are taken as they are")
        facts = work_on_tracks(config, sources, output)
        sources = _with_findings(sources, facts, config)
        facts = judge(sources.tracks, facts, config)
        if all(fact.reason is not None for fact in facts):
            output.clear()  # nothing is worth keeping, and the mend may be another setting
            raise InputError(_why_nothing(sources.tracks, facts))
        assemble(config, sources, facts, output, key, parameters, digest, command)
        output.finish()
    folder = open_dataset_folder(out)
    print("\n".join(report_lines(folder)))
    return folder


def make_sources(config: PrepareConfig) -> Sources:
    """Find the audio files that a config names, with their captions where those do not wait for the workers.

    Raises:
        InputError: If there is no audio, or tables or templates cannot be used.
    """
    sources = add_path_fields(find_sources(_reviewed(config)), config)
    return sources if needs_work_first(config) else finish_captions(sources, config)


def _reviewed(config: PrepareConfig) -> PrepareConfig:
    """Take the reviewed table, where there is one, as the table of captions."""
    if config.captions is not CaptionSource.review:
        return config
    return dataclasses.replace(config, captions=CaptionSource.table, table=str(review_path(config)))


def _with_findings(sources: Sources, facts: Sequence[TrackFacts], config: PrepareConfig) -> Sources:
    """Add what the workers read and measured in the files as columns, and finish the captions with it."""
    if not needs_work_first(config):
        return sources
    return finish_captions(with_columns(sources, [fact.tags | fact.measured for fact in facts]), config)


def _why_nothing(tracks: Sequence[Track], facts: Sequence[TrackFacts]) -> str:
    counted = "the one track" if len(tracks) == 1 else f"any of {len(tracks)} tracks"
    return f"cannot use {counted}; the first, {tracks[0].source}: {facts[0].reason}: {facts[0].detail}"
