"""The way from what became of each track to the dataset in its place."""

from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.assembly import assemble
from data_prep.captioning import finish_captions, needs_work_first
from data_prep.kept import TrackFacts, parameters_key
from data_prep.output import PICTURES_DIR, Output
from data_prep.parameters import cut_data, make_cut_parameters
from data_prep.policy import judge
from data_prep.report import counts_text, report_lines
from data_prep.tracks import Sources, Track, with_columns
from data_prep.writers.choose import check_columns
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.dataset.layout import SHARD_DIR, DatasetFolder, open_dataset_folder
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.hub import push


def finish_dataset(
    config: PrepareConfig,
    sources: Sources,
    facts: Sequence[TrackFacts],
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


def _why_nothing(tracks: Sequence[Track], facts: Sequence[TrackFacts]) -> str:
    counted = "the one track" if len(tracks) == 1 else f"any of {len(tracks)} tracks"
    return f"cannot use {counted}; the first, {tracks[0].source}: {facts[0].reason}: {facts[0].detail}"
