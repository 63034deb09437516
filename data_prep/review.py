"""`captions=review`: all captions in one table to edit, which the same command reads back."""

import csv
import io
from pathlib import Path

from data_prep.captioning import add_path_fields, finish_captions
from data_prep.sources import find_sources
from data_prep.tags import read_tags
from data_prep.tracks import Sources, with_columns
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.runtime.files import write_atomically


def review_path(config: PrepareConfig) -> Path:
    """Return where the table to edit lies: what `table=` names, else beside the dataset folder."""
    out = Path(config.out)
    return Path(config.table) if config.table else out.with_name(f"{out.name}.captions.csv")


def write_review(config: PrepareConfig, path: Path) -> str:
    """Write the table: a row for each caption, with the columns that are known, an empty caption where there is none.

    Returns:
        What to tell the user.
    """
    sources = add_path_fields(find_sources(config), config)
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
    return b"\xef\xbb\xbf" + sink.getvalue().encode()  # spreadsheets take a table without the mark for Latin-1
