"""The output folder while a dataset is made: what it may hold, who may write, and how a finished dataset moves into place.

Everything is made in `<out>/.work`. `stats.json` is the first file that is removed from an old dataset and the last that is
moved into a new one, so a folder that has it is complete.
"""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.inputs.asking import CAPTIONER_FAILED
from data_prep.inputs.caption_check import CHECK_WARNINGS
from data_prep.run import PrepareRun, read_parameters, refuse_differences, with_new_table
from data_prep.tracks.track_store import Slice, TrackResult, TrackStore
from data_prep.writers import read_rows
from riffusion_train.config.spectrogram import SPECTROGRAM_FILE
from riffusion_train.dataset import layout
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.runtime.files import remove_partials, write_json

PICTURES_DIR = "pictures"
LEFT_OUT_DIR = ".left_out"
"""Track store of what was cut and is not in the dataset, such as duplicates, so that extending it need not cut them again."""
CAPTIONER_DIR = ".captioner"
"""The answers of captioners, which stay when the dataset is made anew."""
_OURS = (
    *(layout.SHARD_DIR, layout.CARD_FILE, layout.MANIFEST_FILE, SPECTROGRAM_FILE, PICTURES_DIR, LEFT_OUT_DIR),
    layout.STATS_FILE,
)


class OutputFolder:
    """The folder of a dataset, or of one part of an array job, with its working folder.

    Args:
        folder: The folder; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / layout.WORK_DIR
        self.tracks = self.work / "tracks"
        self.assembled = self.work / "assembled"
        self.parameters_file = self.work / "parameters.json"

    def store(self, key: str) -> TrackStore:
        """Return the store of the tracks that are cut with the parameters of a key."""
        return TrackStore(self.tracks.absolute(), key)

    def left_out(self, key: str) -> TrackStore:
        """Return the store, in the assembled dataset, of what is not or not completely in its shards."""
        return TrackStore(self.assembled / LEFT_OUT_DIR, key)

    def is_complete(self, run: PrepareRun) -> bool:
        """Return whether the folder holds exactly the dataset that a run makes.

        Raises:
            InputError: If the folder holds something else, or a dataset, finished or not, with other settings.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"out={self.folder}: a file of that name is in the way")
        if run.config.overwrite:
            if not self.work.is_dir() and not (self.folder / layout.STATS_FILE).is_file():
                self._refuse_foreign()
            return False
        stats = layout.read_stats(self.folder)
        if stats is None:
            begun = read_parameters(self.parameters_file)
            if begun is None:
                self._refuse_foreign()
            else:
                refuse_differences(begun, run.parameters, self.folder)
            return False
        refuse_differences(with_new_table(stats["parameters"], run.parameters), run.parameters, self.folder)
        # With other sources the dataset is extended; with another licence or language only its card is written again.
        same_license = stats.get("license", run.config.license) == run.config.license
        same_language = stats.get("language") == run.config.language
        return bool(stats["sources_digest"] == run.digest and same_license and same_language)

    def _refuse_foreign(self) -> None:
        if self.folder.is_dir():
            other = sorted({path.name for path in self.folder.iterdir()} - {layout.WORK_DIR, CAPTIONER_DIR})
            if other:
                raise InputError(
                    f"out={self.folder} is not empty and not a dataset ({other[0]} is in it); choose an empty or new folder"
                )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the working folder and lock it against other commands.

        A run that fails binds nothing: its settings are forgotten, and the next one may have others. What it has cut stays,
        under the key of the parameters that it was cut with. The settings of a run that was stopped or killed stay.

        Raises:
            InputError: If another command is writing to this folder, or the folder is removed in the meantime.
        """
        self.tracks.mkdir(parents=True, exist_ok=True)
        with (self.work / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"out={self.folder}: another riffusion prepare is writing to it") from None
            try:
                yield
            except StoppedError:
                raise
            except Exception as error:
                with contextlib.suppress(OSError):
                    self.parameters_file.unlink()
                if self._is_removed(error):
                    raise InputError(
                        f"out={self.folder}: the folder, or something in it, was removed while it was being written; run the "
                        "same command again"
                    ) from None
                raise

    def _is_removed(self, error: Exception) -> bool:
        """Whether an error comes of it that somebody else removed this folder or something in it."""
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            return False
        inside = error.filename is not None and Path(error.filename).absolute().is_relative_to(self.folder.absolute())
        return inside or not self.tracks.is_dir()

    def record(self, parameters: Mapping[str, Any]) -> None:
        """Record the settings of this run for the next one to compare, and delete what a killed run left half-written."""
        remove_partials(self.work, recursive=True)
        write_json(self.parameters_file, dict(parameters))

    def begin(self, parameters: Mapping[str, Any]) -> None:
        """Record the settings, see `record`, and create empty folders for the dataset."""
        self.record(parameters)
        shutil.rmtree(self.assembled, ignore_errors=True)
        for name in (layout.SHARD_DIR, LEFT_OUT_DIR, PICTURES_DIR):
            (self.assembled / name).mkdir(parents=True)

    def finish(self) -> None:
        """Move the assembled dataset into place, and delete the working folder."""
        (self.folder / layout.STATS_FILE).unlink(missing_ok=True)
        (self.folder / layout.PAGE_FILE).unlink(
            missing_ok=True
        )  # it shows the old dataset; its sounds can be of use again
        for name in _OURS:
            old, new = self.folder / name, self.assembled / name
            if old.is_dir():
                shutil.rmtree(old)
            if new.exists():
                new.replace(old)
        self.clear()

    def clear(self) -> None:
        """Delete the working folder."""
        shutil.rmtree(self.work, ignore_errors=True)


_RESULT_FIELDS = {field.name for field in dataclasses.fields(TrackResult)}
_FILTER_WARNINGS = ("misnamed", "clipped", CAPTIONER_FAILED, *CHECK_WARNINGS)
"""Warnings that are added again once all tracks are known."""


def restore_tracks(dataset: layout.DatasetFolder, store: TrackStore) -> int:
    """Fill a track store from a finished dataset, as if its tracks had just been cut, so that it can be extended.

    Args:
        dataset: The dataset; it was made with the same parameters.
        store: The store to fill.

    Returns:
        The number of tracks with slices.
    """
    results = _results_of(dataset.path / layout.MANIFEST_FILE)
    for result in results.values():
        if result.origin:
            store.write_origin(result.origin, result.file_hash)
    count = 0
    left_out = TrackStore(dataset.path / LEFT_OUT_DIR, store.key)
    for file_hash in left_out.file_hashes():
        left_out.share(file_hash, store)
        count += bool(getattr(left_out.read(file_hash), "slices", 0))
    rows = (row for split in layout.SPLITS for row in read_rows(dataset, split))
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
