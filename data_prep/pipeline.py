"""`prepare`: from a folder of captioned audio to a finished dataset folder, in processes, stoppable and resumable."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from data_prep.captions.compose import add_path_fields, finish_captions, needs_work_first, review_path, write_review
from data_prep.engine.array_jobs import work_on_part
from data_prep.engine.ray_cluster import check_ray
from data_prep.engine.run_tracks import work_on_tracks
from data_prep.inputs.sources import find_sources
from data_prep.inputs.tracks import Sources
from data_prep.output.finish import find_complete, finish_dataset, push_dataset
from data_prep.output.folder import Output
from data_prep.output.stats import estimate_lines
from data_prep.output.track_store import keep_finished, parameters_key
from data_prep.run import command_line, cut_data, make_cut_parameters, parameters_of
from data_prep.tracks.windows import check_librosa
from data_prep.writers.choose import check_columns
from riffusion_train.config.prepare import CaptionSource, Engine, PrepareConfig, Windows, check_prepare
from riffusion_train.dataset.layout import DatasetFolder, open_dataset_folder, read_stats
from riffusion_train.runtime.hub import check_repository


def run(config: PrepareConfig, words: Sequence[str] = (), endpoint: str | None = None) -> None:
    """Do what the verb is asked for: prepare all or a part, tell what would be made, or write the captions to review.

    Args:
        config: What to do.
        words: The command line after the verb.
        endpoint: The hub's address for `push_to_hub`; None is the usual one.

    Raises:
        InputError: As `prepare` and `hub.push` do.
    """
    check_prepare(config)
    if config.push_to_hub is not None:
        check_repository(config.push_to_hub)
    if config.captions is CaptionSource.review and not review_path(config).is_file():
        print(write_review(config, review_path(config)))
    elif config.dry_run:
        print("\n".join(estimate_lines(make_sources(config), config)))
    elif config.part is not None:
        check_tools(config)
        work_on_part(config, make_sources(config), parameters_of(config), words)
    else:
        folder = prepare(config, command_line(words, Path(config.out)) if words else "")
        if config.push_to_hub is not None:
            print(push_dataset(folder, config.push_to_hub, private=config.private, endpoint=endpoint))


def check_tools(config: PrepareConfig) -> None:
    """Check that what a config needs is installed.

    Raises:
        InputError: Saying how to install it.
    """
    if config.windows is not Windows.fixed:
        check_librosa()
    if config.engine is Engine.ray:
        check_ray()


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
    check_tools(config)
    out = Path(config.out)
    sources = make_sources(config)
    output = Output(out)
    parameters = parameters_of(config)
    complete = find_complete(output, parameters, sources.digest(), config.overwrite, config.license)
    if complete is not None:
        return complete
    with output.locked():
        output.begin(parameters)
        key = parameters_key(cut_data(make_cut_parameters(config)))
        if not config.overwrite and read_stats(out) is not None:
            count = keep_finished(open_dataset_folder(out), output.tracks, key)
            print(f"{out} is extended: the slices of {count} tracks are taken as they are")
        facts = work_on_tracks(config, sources, output)
        return finish_dataset(config, sources, facts, output, parameters, command)


def make_sources(config: PrepareConfig) -> Sources:
    """Find the audio files that a config names, with their captions where those do not wait for the workers.

    Raises:
        InputError: If there is no audio, or tables or templates cannot be used.
    """
    sources = add_path_fields(find_sources(_reviewed(config)), config)
    check_columns(config, sources.extra_types)
    return sources if needs_work_first(config) else finish_captions(sources, config)


def _reviewed(config: PrepareConfig) -> PrepareConfig:
    """Take the reviewed table, where there is one, as the table of captions."""
    if config.captions is not CaptionSource.review:
        return config
    return dataclasses.replace(config, captions=CaptionSource.table, table=str(review_path(config)))
