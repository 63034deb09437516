"""`riffusion prepare`: from a folder of captioned audio to a finished dataset folder.

Finds the sources, cuts all tracks in parallel, and writes the dataset. A stopped or killed run is continued by the same
command.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from data_prep.captions.captioner import make_captioner
from data_prep.engine.run_tracks import run_part, run_tracks
from data_prep.engine.workers import check_ray
from data_prep.inputs.captioning import (
    add_path_fields,
    captions_need_audio,
    check_fields,
    finish_captions,
    review_path,
    write_review,
)
from data_prep.inputs.sources import TAG_COLUMNS, find_sources
from data_prep.inputs.tracks import Sources
from data_prep.output.finish import find_complete, finish_dataset, push_dataset, restore_tracks
from data_prep.output.folder import make_run, open_output
from data_prep.output.page import PageOptions, page_line, write_page
from data_prep.output.stats import estimate_lines
from data_prep.tracks.measuring import parse_attributes
from data_prep.writers import check_columns
from riffusion_train.config.prepare import (
    CaptionSource,
    Engine,
    PageConfig,
    PrepareConfig,
    check_page,
    check_prepare,
)
from riffusion_train.dataset.layout import DatasetFolder, open_dataset_folder, read_stats
from riffusion_train.dataset.store import open_dataset
from riffusion_train.runtime.files import is_url, refuse_url
from riffusion_train.runtime.hub import check_repository


def run(config: PrepareConfig, arguments: Sequence[str] = (), endpoint: str | None = None) -> bool:
    """Do what the command is asked for: prepare a dataset or a part of it, estimate it, or write the captions to review.

    Returns:
        Whether the dataset is complete.

    Args:
        config: The run's config.
        arguments: The command line after the verb.
        endpoint: Address of the Hub for `push_to_hub`; None is the public one.

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
        check_needs(config)
        run_part(make_run(config, make_sources(config), arguments))
    else:
        folder = _prepare(config, arguments)
        if config.push_to_hub is not None:
            print(
                push_dataset(
                    folder, config.push_to_hub, private=config.private, page=config.push_page, endpoint=endpoint
                )
            )
        return True
    return False


def check_needs(config: PrepareConfig) -> None:
    """Check that what a config needs is there: optional packages, and the captioner with its key.

    Raises:
        InputError: Naming what is missing and the fix.
    """
    if config.engine is Engine.ray:
        check_ray()
    if config.captioner is not None:
        make_captioner(config)


def prepare(config: PrepareConfig, arguments: Sequence[str] = ()) -> DatasetFolder:
    """Make a dataset folder, or continue one that a stopped or killed run has begun.

    Args:
        config: The run's config.
        arguments: The command line after the verb, for the dataset card.

    Raises:
        InputError: If the input cannot be used, or the output folder holds something else.
        StoppedError: On SIGINT or SIGTERM; the same command continues.
        OSError: If the disk is full; the same command continues.
    """
    folder = _prepare(config, arguments)
    return open_dataset(config.out) if is_url(config.out) else folder


def _prepare(config: PrepareConfig, arguments: Sequence[str]) -> DatasetFolder:
    check_prepare(config)
    check_needs(config)
    with open_output(config.out) as output:
        this_run = make_run(config, make_sources(config), arguments)
        complete = find_complete(this_run, output)
        if complete is not None:
            return complete
        with output.locked():
            output.begin(this_run.parameters)
            if not config.overwrite and read_stats(output.folder) is not None:
                count = restore_tracks(output, this_run.key)
                print(f"{output.name} is extended: the slices of {count} tracks are taken as they are")
            results = run_tracks(this_run, output)
            return finish_dataset(this_run, results, output)


def make_sources(config: PrepareConfig) -> Sources:
    """Find the audio files that a config names, with their captions unless those depend on the audio.

    Raises:
        InputError: If there is no audio, or tables, templates or columns cannot be used.
    """
    sources = add_path_fields(find_sources(_with_reviewed_table(config)), config)
    later = [*parse_attributes(config.measure), *(TAG_COLUMNS if config.captions is CaptionSource.tags else ())]
    check_columns(config, sources.extra_types)
    unused = check_fields(sources, config, later)
    if unused:
        print(f"caption_template: no track has {', '.join(unused)}; the alternatives are used")
    return sources if captions_need_audio(config) else finish_captions(sources, config)


def _with_reviewed_table(config: PrepareConfig) -> PrepareConfig:
    """Return the config with the reviewed table, if there is one, as the table of captions."""
    if config.captions is not CaptionSource.review:
        return config
    return dataclasses.replace(config, captions=CaptionSource.table, table=str(review_path(config)))


def make_page(config: PageConfig) -> Path:
    """Write the page of a finished dataset anew, of any version. Returns its path.

    Raises:
        InputError: If the folder is not a finished dataset, or an image is damaged.
        StoppedError: On SIGINT or SIGTERM; the same command continues.
        OSError: If the disk is full.
    """
    refuse_url("out=", config.out, "copy the dataset here")
    check_page(config)
    folder = open_dataset_folder(config.out)
    path = write_page(folder, PageOptions.from_config(config))
    print(page_line(folder))
    return path
