"""The real clips that generated ones are compared with: slices of a dataset, decoded or as they sounded before."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.read import read_audio
from riffusion_train.config.spectrogram import Quality
from riffusion_train.dataset.layout import (
    CAPTION,
    DURATION_S,
    MAX_VALUE,
    SOURCE,
    START_S,
    TRACK_ID,
    open_dataset_folder,
)
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.listening.copies import TrainingSlices, band_centres_hz
from riffusion_train.listening.heard import HeardClip, Unit, stamp
from riffusion_train.runtime.errors import InputError

_UNIT_SLICES = 16
"""Slices that are decoded and heard together, and cached in one file."""


def is_dataset(path: Path) -> bool:
    """Whether a folder is a dataset that `prepare` made, finished or not, rather than a folder of sounds."""
    return (path / "stats.json").is_file() or (path / "spectrogram.json").is_file()


def open_split(path: Path, split: str) -> SpectrogramDataset:
    """Open the split of a dataset that holds the real clips.

    Raises:
        InputError: If this is no dataset, or it has no such split.
    """
    folder = open_dataset_folder(path)
    if not folder.num_slices(split):
        raise InputError(
            f"real={path}: has no {split} split; prepare it with validation_ratio=0.1, or name a folder of real sounds"
        )
    return SpectrogramDataset(folder, split)


class DecodedSlices:
    """Slices of a dataset as the sound that their images decode to.

    Args:
        dataset: The split.
        rows: Which slices.
        quality: How long to search for the phase.
        device: Where to invert them.
    """

    def __init__(self, dataset: SpectrogramDataset, rows: Sequence[int], quality: Quality, device: str = "cpu") -> None:
        self.dataset, self.rows, self._quality, self._device = dataset, list(rows), quality, device
        self.codec = make_codec(dataset.folder.spectrogram)

    def units(self) -> Iterator[Unit]:
        """Yield the work in pieces that are cached by themselves."""
        fingerprint = self.dataset.folder.fingerprint
        split = self.dataset.rows[START_S]  # of a split, start and track tell slices apart in messages only
        for first in range(0, len(self.rows), _UNIT_SLICES):
            rows = self.rows[first : first + _UNIT_SLICES]
            key = json.dumps(["slices", fingerprint, len(split), rows, self._quality.value])
            yield Unit(key, len(rows), lambda rows=rows: self._decode(rows))  # type: ignore[misc]

    def _decode(self, rows: Sequence[int]) -> list[HeardClip | str]:
        images = torch.from_numpy(np.stack([self.dataset.image(row) for row in rows])).to(self._device)
        about = self.dataset.rows.select_columns([CAPTION, TRACK_ID, START_S, DURATION_S, MAX_VALUE, SOURCE])[
            list(rows)
        ]
        wavs = self.codec.decode_batch(images, [value or 0.0 for value in about[MAX_VALUE]], quality=self._quality)
        clips: list[HeardClip | str] = []
        for number, wav in enumerate(wavs.cpu().numpy()):
            samples = max(1, round(about[DURATION_S][number] * self.codec.rate_hz))  # what follows is silence
            clips.append(
                HeardClip(
                    name=f"{about[SOURCE][number]} at {about[START_S][number]:.2f} s",
                    track=str(about[TRACK_ID][number]),
                    captions=tuple(about[CAPTION][number] or ()),
                    sound=(np.ascontiguousarray(wav[:, :samples]), self.codec.rate_hz),
                )
            )
        return clips


class OriginalSlices:
    """Slices of a dataset as they sounded before they became images: cut from the files that it was prepared from.

    Args:
        dataset: The split.
        rows: Which slices.
        audio: The folder of the files.

    Raises:
        InputError: If a file is not there.
    """

    def __init__(self, dataset: SpectrogramDataset, rows: Sequence[int], audio: Path) -> None:
        self._about = dataset.rows.select_columns([CAPTION, TRACK_ID, START_S, DURATION_S, SOURCE])[list(rows)]
        self._audio = audio
        self.rows_of: dict[str, list[int]] = {}
        """Positions in `rows` by source file."""
        for number, source in enumerate(self._about[SOURCE]):
            self.rows_of.setdefault(source, []).append(number)
        missing = [source for source in self.rows_of if not (audio / source).is_file()]
        if missing:
            raise InputError(
                f"audio={audio}: has no {missing[0]}, from which slices of the dataset were cut "
                f"({len(missing)} of {len(self.rows_of)} files are missing); name the folder that it was prepared from"
            )

    def units(self) -> Iterator[Unit]:
        """Yield the work in pieces: one for each file."""
        for source, numbers in self.rows_of.items():
            cuts = [(self._about[START_S][number], self._about[DURATION_S][number]) for number in numbers]
            key = json.dumps(["original", *stamp(self._audio / source), cuts])
            yield Unit(key, len(numbers), lambda source=source, numbers=numbers: self._cut(source, numbers))  # type: ignore[misc]

    def _cut(self, source: str, numbers: Sequence[int]) -> list[HeardClip | str]:
        wav, rate_hz = read_audio(self._audio / source)
        clips: list[HeardClip | str] = []
        for number in numbers:
            start_s, duration_s = self._about[START_S][number], self._about[DURATION_S][number]
            part = wav[:, round(start_s * rate_hz) : round((start_s + duration_s) * rate_hz)]
            if part.shape[1] == 0:
                raise InputError(
                    f"{self._audio / source}: ends before {start_s:.2f} s; it is not the file of the dataset"
                )
            name = f"{source} at {start_s:.2f} s"
            track, captions = str(self._about[TRACK_ID][number]), tuple(self._about[CAPTION][number] or ())
            clips.append(HeardClip(name, track, captions, (np.ascontiguousarray(part), rate_hz)))
        return clips


class GreyImages(Sequence[npt.NDArray[np.uint8]]):
    """The images of slices in grey, read when they are asked for: a large split does not fit into memory.

    Args:
        dataset: The split.
        rows: Which slices.
    """

    def __init__(self, dataset: SpectrogramDataset, rows: Sequence[int]) -> None:
        self._dataset, self._rows = dataset, rows

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self._rows)

    def __getitem__(self, position):  # type: ignore[no-untyped-def]
        """Return an image, uint8 (height, width), or several for a range."""
        if isinstance(position, slice):
            return [self[number] for number in range(*position.indices(len(self)))]
        return grey(self._dataset.image(self._rows[position]))


def grey(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return an image, (height, width) or (height, width, 3), in grey."""
    return image if image.ndim == 2 else image.mean(axis=2).round().astype(np.uint8)


def training_slices(
    dataset: SpectrogramDataset, rows: Sequence[int], embeddings: npt.NDArray[np.float32] | None
) -> TrainingSlices:
    """Return slices in the form in which copies are searched; `embeddings` is (slices, dim)."""
    config = dataset.folder.spectrogram
    tracks = dataset.rows[TRACK_ID]
    return TrainingSlices(
        images=GreyImages(dataset, rows),
        tracks=[str(tracks[row]) for row in rows],
        seconds_per_column=config.hop_length / config.rate_hz,
        band_hz=band_centres_hz(config),
        embeddings=embeddings,
    )
