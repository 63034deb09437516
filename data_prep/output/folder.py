"""The output folder while it is made: what may be there, who may write, and how a finished dataset takes its place.

Everything is made in `<out>/.work`. `stats.json` goes first from an old dataset and comes last into a new one, so a folder that
has it is whole.
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.run import read_parameters, refuse_differences
from riffusion_train.config.spectrogram import SPECTROGRAM_FILE
from riffusion_train.dataset import layout
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_atomically

PICTURES_DIR = "pictures"
LEFT_OUT_DIR = ".left_out"
"""What was cut and is not in the dataset, as duplicates are: were it thrown away, extending the dataset would cut it anew."""
_OURS = (
    *(layout.SHARD_DIR, layout.CARD_FILE, layout.MANIFEST_FILE, SPECTROGRAM_FILE, PICTURES_DIR, LEFT_OUT_DIR),
    layout.STATS_FILE,
)


class Output:
    """The output folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / layout.WORK_DIR
        self.tracks = self.work / "tracks"
        self.assembled = self.work / "assembled"
        self.parameters_file = self.work / "parameters.json"

    def is_complete(self, parameters: Mapping[str, Any], digest: str, overwrite: bool, licence: str) -> bool:
        """Tell whether the folder holds exactly the dataset that is asked for; one of other sources is to be extended.

        Args:
            parameters: The settings asked for.
            digest: Hash of the sources as they are now.
            overwrite: Whether a dataset of other settings or sources may be replaced.
            licence: Licence asked for, which the card tells.

        Raises:
            InputError: If the folder holds something else, or a dataset, finished or not, of other settings.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"out={self.folder}: a file of that name is in the way")
        stats = layout.read_stats(self.folder) if not overwrite else None
        begun = read_parameters(self.parameters_file)
        if stats is None and begun is None and not overwrite:
            self._refuse_foreign()
        if overwrite:
            if not self.work.is_dir() and not (self.folder / layout.STATS_FILE).is_file():
                self._refuse_foreign()
            return False
        if begun is not None and stats is None:
            refuse_differences(begun, parameters, self.folder)
        if stats is None:
            return False
        refuse_differences(stats["parameters"], parameters, self.folder)
        return bool(stats["sources_digest"] == digest and stats.get("license", licence) == licence)

    def _refuse_foreign(self) -> None:
        if self.folder.is_dir():
            other = sorted(path.name for path in self.folder.iterdir() if path.name != layout.WORK_DIR)
            if other:
                raise InputError(
                    f"out={self.folder} is not empty and no dataset ({other[0]} is in it); choose an empty or new folder"
                )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the working folder and hold it against a second command.

        Raises:
            InputError: If another command is writing to this folder.
        """
        self.tracks.mkdir(parents=True, exist_ok=True)
        with (self.work / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"out={self.folder}: another riffusion prepare is writing to it") from None
            yield

    def note(self, parameters: Mapping[str, Any]) -> None:
        """Note the settings of this run, for the next one to compare; sweep up what a killed run left half written."""
        for partial in self.work.rglob("*.partial"):
            partial.unlink(missing_ok=True)
        write_atomically(self.parameters_file, json_bytes(parameters))

    def begin(self, parameters: Mapping[str, Any]) -> None:
        """Note the settings, and make room for the dataset; see `note`."""
        self.note(parameters)
        shutil.rmtree(self.assembled, ignore_errors=True)
        for name in (layout.SHARD_DIR, LEFT_OUT_DIR, PICTURES_DIR):
            (self.assembled / name).mkdir(parents=True)

    def finish(self) -> None:
        """Move the assembled dataset into place, and remove the working folder."""
        (self.folder / layout.STATS_FILE).unlink(missing_ok=True)
        for name in _OURS:
            old, new = self.folder / name, self.assembled / name
            if old.is_dir():
                shutil.rmtree(old)
            if new.exists():
                new.replace(old)
        self.clear()

    def clear(self) -> None:
        """Remove the working folder."""
        shutil.rmtree(self.work, ignore_errors=True)


def json_bytes(data: Any) -> bytes:
    """Return `data` as indented JSON with a final newline."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
