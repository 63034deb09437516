"""The final captions of each track: its own, or composed from fields of tables, sidecars, names, tags and measurements."""

import csv
import dataclasses
import io
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from data_prep.captions.heard import HeardFile
from data_prep.captions.listening import listened_captions
from data_prep.captions.sidecars import TAG_COLUMNS, read_tags
from data_prep.captions.tables import Value
from data_prep.captions.templates import CaptionTemplate, PathTemplate
from data_prep.captions.text import clean_captions
from data_prep.inputs.sources import find_sources
from data_prep.inputs.tracks import Rejection, Sources, Track, with_columns
from riffusion_train.config.prepare import CaptionSource, PrepareConfig, TemplateUse
from riffusion_train.dataset.layout import COLUMNS
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_atomically

LISTENING = "listening"
"""`Track.caption_source` of tracks that were captioned by listening."""
_TAG_TEMPLATE = "{comment|genre}"
"""Template of captions=tags without caption_template: comments and genres describe a sound better than titles."""


def captions_need_audio(config: PrepareConfig) -> bool:
    """Return whether captions depend on the sound of the files, or on what the workers read or measure in them."""
    return bool(config.measure or config.captioner) or config.captions is CaptionSource.tags


def add_path_fields(sources: Sources, config: PrepareConfig) -> Sources:
    """Return the sources with the fields that `path_template` reads from their paths as columns.

    Raises:
        InputError: If the template cannot be used, or matches no file.
    """
    if config.path_template is None:
        return sources
    template = PathTemplate(config.path_template)
    for name in template.fields:
        if name in COLUMNS:
            raise InputError(f"path_template: '{name}' is a name that the dataset itself uses; rename the field")
    fields_of = [template.read(track.source) for track in sources.tracks]
    if not any(fields_of):
        raise InputError(f"path_template={template.text} matches no file; the first is {sources.tracks[0].source}")
    return with_columns(sources, [fields or {} for fields in fields_of], template.fields)


def check_fields(sources: Sources, config: PrepareConfig, later: Collection[str]) -> list[str]:
    """Check that the columns that templates and the balance name can exist, before any audio is decoded.

    Args:
        sources: The tracks as they were found.
        config: The run's config.
        later: Columns that are read or measured in the audio only later.

    Returns:
        The columns in `caption_template` that do not exist and can be done without.

    Raises:
        InputError: If `caption_template` or `balance_column` cannot be used.
    """
    known = {*sources.extra_types, *later}
    column = config.balance_column
    if column is not None and column not in known:
        have = ", ".join(sorted(known)) or "none"
        raise InputError(f"balance_column={column}: no such column; there are: {have}")
    return CaptionTemplate(config.caption_template).check(known) if config.caption_template else []


def listens(config: PrepareConfig) -> bool:
    """Return whether tracks without a caption are captioned by listening."""
    return config.captions in (CaptionSource.auto, CaptionSource.listen)


def tracks_to_hear(sources: Sources, config: PrepareConfig, later: Collection[str]) -> frozenset[str]:
    """Return the locators of the tracks that the workers must hear: those for which nothing else gives a caption.

    Args:
        sources: All tracks.
        config: The run's config.
        later: Columns that are read or measured in the audio only later: a template that names one of them will find it.
    """
    if not listens(config):
        return frozenset()
    template = _make_template(config)
    known_later = dict.fromkeys(later, "known")
    return frozenset(
        track.locator
        for track in sources.tracks
        if not track.captions
        and track.rejection is None
        and config.default_caption is None
        and not (template and template.fill({**known_later, **_known(track)}))
    )


def _known(track: Track) -> dict[str, Value]:
    return {name: value for name, value in track.columns.items() if value is not None}


def finish_captions(sources: Sources, config: PrepareConfig, files: Sequence[HeardFile] | None = None) -> Sources:
    """Return the sources with their final captions: compose them, add the trigger, reject tracks without any.

    Args:
        sources: The tracks as they were found.
        config: The run's config.
        files: What was heard in each track; None before the tracks are cut. Those to be captioned by listening are then left as
            they are.
    """
    template = _make_template(config)
    if files is None:
        finished = [_captioned(track, template, config) for track in sources.tracks]
    else:
        finished = [
            # Those with captions were finished before the tracks were cut.
            track if track.captions and not captions_need_audio(config) else _captioned(track, template, config, file)
            for track, file in zip(sources.tracks, files, strict=True)
        ]
    return dataclasses.replace(sources, tracks=finished)


def _make_template(config: PrepareConfig) -> CaptionTemplate | None:
    text = config.caption_template or (_TAG_TEMPLATE if config.captions is CaptionSource.tags else None)
    return CaptionTemplate(text) if text else None


def _captioned(
    track: Track, template: CaptionTemplate | None, config: PrepareConfig, file: HeardFile | None = None
) -> Track:
    captions, source = track.captions, track.caption_source
    slice_captions: tuple[tuple[str, ...], ...] = ()
    if template and (not captions or config.template_use is TemplateUse.add):
        composed = clean_captions([template.fill(track.columns) or ""])
        source = source or ("the template" if config.caption_template else "tags" if composed else "")
        captions = clean_captions([*captions, *composed])
    if not captions and config.default_caption:
        captions, source = clean_captions([config.default_caption]), "default_caption"
    if not captions and file is not None and file.heard is not None and listens(config):
        captions, slice_captions = listened_captions(file.heard, f"{config.seed} {file.file_hash}")
        source = LISTENING
    if config.trigger:
        captions = _with_trigger(captions, config.trigger)
        slice_captions = tuple(_with_trigger(own, config.trigger) for own in slice_captions)
    rejection = track.rejection
    will_be_heard = listens(config) and file is None
    if not captions and rejection is None and not will_be_heard:
        composed_none = ", and caption_template finds nothing to compose one of" if template else ""
        fix = "or give default_caption=, or set captions=listen"
        rejection = Rejection("no caption", f"{track.lacking}{composed_none}, {fix}")
    return dataclasses.replace(
        track,
        captions=captions,
        caption_source=source if captions else "",
        slice_captions=slice_captions,
        rejection=rejection,
    )


def _with_trigger(captions: Iterable[str], trigger: str) -> tuple[str, ...]:
    return clean_captions(f"{trigger}, {caption}" for caption in captions)


def review_path(config: PrepareConfig) -> Path:
    """Return the path of the table to edit: `table=`, or else beside the dataset folder."""
    out = Path(config.out)
    return Path(config.table) if config.table else out.with_name(f"{out.name}.captions.csv")


def write_review(config: PrepareConfig, path: Path) -> str:
    """Write the table of captions=review: a row per caption with all columns; the caption is empty if there is none.

    Returns:
        A message for the user.
    """
    sources = add_path_fields(find_sources(config), config)
    check_fields(sources, config, TAG_COLUMNS)
    tags = [read_tags(Path(track.locator)) if Path(track.locator).is_file() else {} for track in sources.tracks]
    sources = finish_captions(with_columns(sources, tags) if any(tags) else sources, config)
    tracks = [track for track in sources.tracks if track.rejection is None or track.rejection.reason == "no caption"]
    write_atomically(path, _table(Sources(tracks, sources.extra_types)))
    without = sum(not track.captions for track in tracks)
    return f"{path}: {len(tracks)} files, {without} without a caption; edit it, then run the same command again"


def _table(sources: Sources) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["file", "caption", *sources.extra_types])
    for track in sources.tracks:
        values = [track.columns.get(name) for name in sources.extra_types]
        writer.writerows([track.source, caption, *values] for caption in track.captions or ("",))
    return b"\xef\xbb\xbf" + sink.getvalue().encode()  # without the byte-order mark, spreadsheets assume Latin-1
