"""A dataset folder as training reads it: images, captions, and items with the random draws of their address."""

import contextlib
import io
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import xxhash
from PIL import Image
from torch.utils.data import Dataset

from riffusion_train.dataset.cache import CACHE_DIR, KEY_BYTES
from riffusion_train.dataset.captions import CaptionDraws
from riffusion_train.dataset.layout import CAPTION, IMAGE, SOURCE, START_S, DatasetFolder, open_dataset_folder
from riffusion_train.dataset.order import Address, EpochOrder, MixedOrder, Order, StoredOrder, generator, normal
from riffusion_train.dataset.rows import ParquetRows
from riffusion_train.runtime.errors import InputError, one_line

_GOLDEN_RATIO = (5**0.5 - 1) / 2
ROWS_PER_BLOCK = 100
"""Slices that windows keep together: the row groups that `riffusion prepare` writes."""
_LARGEST_WINDOW = 16384
_SHARDS_OPENED = 8
"""Shards that are looked at when a split is opened."""
_TEXT_COLUMNS = (CAPTION, SOURCE, START_S)
_Read = TypeVar("_Read")

Tokenize = Callable[[str], torch.Tensor]
"""Caption to token ids (77,)."""


class SpectrogramDataset:
    """The slices of one split, read from the Parquet shards where they are, a row group at a time.

    Raises:
        InputError: If the split is empty or damaged, or another writer than Parquet's wrote the dataset.
    """

    def __init__(self, folder: DatasetFolder, split: str) -> None:
        folder.require_parquet()
        shards = folder.shard_files(split)
        if not folder.num_slices(split) or not shards:
            raise InputError(f"{folder.name}: the split '{split}' has no slices; prepare more audio, or other ratios")
        self.folder, self.split = folder, split
        self.rows = ParquetRows(shards)
        count = min(_SHARDS_OPENED, len(shards))
        for number in range(count):  # spread evenly; the others are opened when they are needed
            self._read(lambda number=number: self.rows.locate(self.rows.first_row(number * len(shards) // count)))  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self, work: Callable[[], _Read]) -> _Read:
        """Read from the shards; damage is one line.

        Raises:
            InputError: If a shard cannot be read.
        """
        try:
            return work()
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{self.folder.name}: the shards of '{self.split}' cannot be read ({one_line(error)}); {self._fix}"
            ) from None

    def image_file(self, index: int) -> memoryview:
        """Return the PNG file of a slice, without decoding it."""
        table, row = self._read(lambda: self.rows.group_of(index, [IMAGE]))
        return memoryview(table.column(IMAGE).chunk(0).field("bytes")[row].as_buffer() or b"")

    def image(self, index: int) -> np.ndarray:
        """Return the image of a slice as it is stored: uint8 (height, width) or (height, width, 3).

        Raises:
            InputError: If it is damaged, naming its shard, row and track.
        """
        content = self.image_file(index)
        try:
            with Image.open(io.BytesIO(content)) as image:
                return np.asarray(image)
        except Exception as error:  # Pillow raises classes of many kinds
            shard, row = self.rows.shard_of(index)
            raise InputError(
                f"{self.rows.shard_name(shard)}: the image in row {row}, {self.slice_name(index)}, is damaged "
                f"({one_line(error)}); {self._fix}"
            ) from None

    @property
    def _fix(self) -> str:
        return (
            f"riffusion prepare check {self.folder.name} lists all damage, and its prepare command with overwrite=true "
            "makes it anew"
        )

    def pixels(self, index: int) -> torch.Tensor:
        """Return the image of a slice as the VAE takes it: float32 (3, height, width) in [-1, 1]."""
        image, size = self.image(index), self.folder.spectrogram
        if image.shape[:2] != (size.n_mels, size.width_px):
            raise InputError(
                f"{self.folder.name}: the image of {self.slice_name(index)} is {image.shape[1]} x {image.shape[0]}, "
                f"spectrogram.json says {size.width_px} x {size.n_mels}; prepare the dataset again"
            )
        if image.ndim == 2:  # mono is grey, and the VAE takes three channels
            image = np.repeat(image[..., None], 3, axis=2)
        return torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1) / 127.5 - 1

    def captions(self, index: int) -> list[str]:
        """Return every caption that holds for a slice.

        Raises:
            InputError: If there is none.
        """
        captions = self._read(lambda: self.rows.read(index, _TEXT_COLUMNS))[CAPTION]
        if not captions:
            raise InputError(f"{self.folder.name}: the slice {self.slice_name(index)} has no caption; prepare it again")
        return list(captions)

    def all_captions(self, weights: Sequence[float] = ()) -> list[str]:
        """Return every caption of the split once, in the order of their first use.

        Args:
            weights: As of `CaptionDraws`: captions that have no weight in any slice are left out.
        """
        captions: dict[str, None] = {}  # a dict keeps the order
        for table in self.rows.tables([CAPTION]):
            captions.update(_distinct_captions(table, weights))
        return list(captions)

    def captions_of(self, slices: Sequence[int], weights: Sequence[float] = ()) -> list[str]:
        """Return every caption of some slices once, in the order of their first use; `weights` as of `all_captions`."""
        captions: dict[str, None] = {}
        for _, run in itertools.groupby(slices, lambda index: self.rows.locate(index)[:2]):  # of one row group
            found = [self.rows.group_of(index, [CAPTION]) for index in run]
            captions.update(_distinct_captions(found[0][0].take([row for _, row in found]), weights))
        return list(captions)

    def without_caption(self, most: int) -> tuple[list[str], int]:
        """Look for slices without a caption, or with one that is blank.

        Args:
            most: Row groups to look at, spread evenly over the split.

        Returns:
            The names of those slices, and how many slices were looked at.
        """
        missing: list[str] = []
        looked_at = 0
        for table in self._read(lambda: list(self.rows.tables(_TEXT_COLUMNS, most=most))):
            for chunk in table.column(CAPTION).chunks:
                counts = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
                texts = pc.fill_null(pc.utf8_trim_whitespace(pc.list_flatten(chunk)), "")
                blank = pc.equal(texts, "").to_numpy(zero_copy_only=False).astype(bool)
                parents = pc.list_parent_indices(chunk).to_numpy(zero_copy_only=False)
                incomplete = (counts == 0) | np.isin(np.arange(len(chunk)), parents[blank])
                missing += [_slice_name(table.slice(int(row), 1).to_pylist()[0]) for row in np.flatnonzero(incomplete)]
            looked_at += len(table)
        return missing, looked_at

    def slice_name(self, index: int) -> str:
        """Return the name of a slice for messages: its source and start."""
        return _slice_name(self._read(lambda: self.rows.read(index, _TEXT_COLUMNS)))


def _distinct_captions(table: pa.Table, weights: Sequence[float]) -> dict[str, None]:
    """Return the captions of rows, each once, as the keys of a dict; without those of no weight in any row."""
    captions: dict[str, None] = {}
    for chunk in table.column(CAPTION).chunks:
        texts = pc.list_flatten(chunk)
        if 0 in weights:
            parents = pc.list_parent_indices(chunk).to_numpy(zero_copy_only=False)
            numbers = np.arange(len(parents)) - np.searchsorted(parents, parents)  # of the captions in their slices
            texts = texts.filter(pa.array(np.array(weights)[np.minimum(numbers, len(weights) - 1)] > 0))
        captions.update(dict.fromkeys(pc.unique(texts).drop_null().to_pylist()))
    return captions


def _slice_name(row: Mapping[str, Any]) -> str:
    return f"{row[SOURCE]} at {row[START_S]:.2f} s"


class SliceKeys:
    """The keys of a split's slices: hashes of their image files, kept beside the caches once they are known.

    Args:
        dataset: The slices.
        directory: Of the caches; None is `.cache` in the dataset folder.
    """

    def __init__(self, dataset: SpectrogramDataset, directory: Path | None = None) -> None:
        self._dataset = dataset
        directory = dataset.folder.path / CACHE_DIR if directory is None else directory
        self._path = directory / f"keys-{dataset.folder.fingerprint[:32]}"
        self._size = KEY_BYTES * len(dataset)

    def known(self, slices: Sequence[int]) -> np.ndarray:
        """Return the keys of some slices, uint8 (n, 16); zeros where they are not known yet."""
        keys = np.zeros((len(slices), KEY_BYTES), np.uint8)
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == self._size:
                for number, index in enumerate(slices):
                    content = os.pread(file.fileno(), KEY_BYTES, KEY_BYTES * index)
                    keys[number] = np.frombuffer(content, np.uint8)
        return keys

    def compute(self, index: int) -> np.ndarray:
        """Return the key of a slice, uint8 (16,)."""
        return np.frombuffer(xxhash.xxh3_128_digest(self._dataset.image_file(index)), np.uint8)

    def keep(self, slices: Sequence[int], keys: np.ndarray) -> None:
        """Keep the keys of some slices; what cannot be written is computed again next time."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("r+b" if self._path.exists() else "w+b") as file:
                file.truncate(self._size)
                for index, key in zip(slices, keys, strict=True):
                    os.pwrite(file.fileno(), key.tobytes(), KEY_BYTES * index)


def slice_keys(
    dataset: SpectrogramDataset, slices: Sequence[int] | None = None, directory: Path | None = None, *, keep: bool
) -> np.ndarray:
    """Return the keys of a split's slices, uint8 (n, 16): hashes of their image files.

    Args:
        dataset: The slices.
        slices: Which of them; None is all.
        directory: Of the caches; None is `.cache` in the dataset folder.
        keep: Whether to write the keys beside the caches, so that the next start need not read the images.
    """
    numbers = range(len(dataset)) if slices is None else slices
    keys = SliceKeys(dataset, directory)
    found = keys.known(numbers)
    new: list[int] = np.flatnonzero(~found.any(axis=1)).tolist()
    for row in new:
        found[row] = keys.compute(numbers[row])
    if keep:
        keys.keep([numbers[row] for row in new], found[new])
    return found


def choose_window(dataset: SpectrogramDataset, shuffle_window: int | None, cache_gb: float) -> int | None:
    """Return the window that a new run shuffles within; None where all slices are shuffled freely.

    Of a dataset in a store, two windows are on this machine at a time: the one in use, and the next one, which is being
    fetched; half of the cache is left for them to overlap.
    """
    if shuffle_window is not None or not dataset.folder.is_remote:
        return shuffle_window
    stored = [shard for shard in dataset.folder.stats["shards"] if shard["split"] == dataset.split]
    slice_bytes = sum(shard["bytes"] for shard in stored) / len(dataset)
    return int(min(_LARGEST_WINDOW, max(ROWS_PER_BLOCK, cache_gb * 1e9 / 4 / slice_bytes)))


def make_order(dataset: SpectrogramDataset, seed: int, window: int | None) -> Order:
    """Return the order in which a run meets the slices of a dataset, or of several that are mixed."""
    folder = dataset.folder
    parts = [part.shard_files(dataset.split) for part in folder.parts or (folder,)]
    orders = []
    for number, shards in enumerate(parts):
        rows = ParquetRows(shards)
        own_seed = (seed + number * 0x9E3779B97F4A7C15) % 2**64
        blocks = None if window is None else rows.first_rows(ROWS_PER_BLOCK)
        orders.append(EpochOrder(len(rows), own_seed, window, blocks))
    return orders[0] if len(orders) == 1 else MixedOrder(orders, folder.weights)


def noted_order(dataset: SpectrogramDataset, manifest: Mapping[str, Any]) -> Order:
    """Return the order of a run as its first start noted it; version 0.1.0 noted none, and shuffled in another way."""
    if "order" not in manifest:
        return StoredOrder(len(dataset), manifest["seed"])
    return make_order(dataset, manifest["seed"], manifest["order"]["window"])


def load_dataset(folder: Path | str, split: str = "train") -> SpectrogramDataset:
    """Open one split of a dataset folder that `riffusion prepare` made.

    Args:
        folder: The folder.
        split: `train`, `validation` or `test`.

    Raises:
        InputError: If the folder is not a dataset, or the split is empty.
    """
    return SpectrogramDataset(open_dataset_folder(folder), split)


class Moments(Protocol):
    """Cached means and log-variances of the latents."""

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the moments of a slice: float32 (2 * latent_channels, height, width)."""
        ...


class Texts(Protocol):
    """Cached hidden states of the text encoder."""

    def __getitem__(self, caption: str) -> np.ndarray:
        """Return the hidden states of a caption: float32 (77, D)."""
        ...


class LatentItems(Dataset[dict[str, torch.Tensor]]):
    """Items for training the UNet, looked up by `Address`.

    An item holds `moments` (2 * C, h, w) where they are cached, else `pixels` (3, H, W); `latent_noise` (C, h, w), which
    samples the latents; `noise` (C, h, w) and `timestep` (); `input_noise` (C, h, w) where the input is perturbed;
    `hidden_states` (77, D) of the drawn caption where they are cached, else its `input_ids` (77,); `guidance_scale` () where
    one is drawn; and `slice_index` ().
    """

    def __init__(
        self,
        dataset: SpectrogramDataset,
        tokenize: Tokenize,
        *,
        moments: Moments | None,
        latent_shape: tuple[int, int, int],
        seed: int,
        num_train_timesteps: int,
        captions: CaptionDraws,
        noise_offset: float,
        input_perturbation: float = 0.0,
        timestep_shift: float = 1.0,
        texts: Texts | None = None,
        guidance_range: tuple[float, float] | None = None,
    ) -> None:
        self.dataset = dataset
        self.tokenize = tokenize
        self.guidance_range = guidance_range
        self.moments = moments
        self.texts = texts
        self.latent_shape = latent_shape
        self.seed = seed
        self.num_train_timesteps = num_train_timesteps
        self.captions = captions
        self.noise_offset = noise_offset
        self.input_perturbation = input_perturbation
        self.timestep_shift = timestep_shift

    def __getitem__(self, address: Address) -> dict[str, torch.Tensor]:
        at = (address.step, address.position)  # every draw is a function of the seed and this address
        noise = normal(self.seed, "noise", self.latent_shape, *at)
        if self.noise_offset:  # one number for each channel, so that the mean of a latent is learned too
            noise += self.noise_offset * normal(self.seed, "noise offset", (self.latent_shape[0], 1, 1), *at)
        item = {
            "latent_noise": torch.from_numpy(normal(self.seed, "latent", self.latent_shape, *at)),
            "noise": torch.from_numpy(noise),
            "slice_index": torch.tensor(address.slice_index),
            "timestep": torch.tensor(self._timestep(address)),
        }
        if self.guidance_range is not None:
            lowest, highest = self.guidance_range
            share = generator(self.seed, "guidance", *at).random()
            item["guidance_scale"] = torch.tensor(lowest + share * (highest - lowest), dtype=torch.float32)
        caption = self.captions.draw(self.dataset.captions(address.slice_index), *at)
        if self.texts is None:
            item["input_ids"] = self.tokenize(caption)
        else:
            item["hidden_states"] = torch.from_numpy(np.array(self.texts[caption]))
        if self.input_perturbation:
            more = self.input_perturbation * normal(self.seed, "input perturbation", self.latent_shape, *at)
            item["input_noise"] = torch.from_numpy(noise + more)
        if self.moments is None:
            return item | {"pixels": self.dataset.pixels(address.slice_index)}
        return item | {"moments": torch.from_numpy(np.array(self.moments[address.slice_index]))}

    def _timestep(self, address: Address) -> int:
        """Draw a timestep, over all steps uniform before it is shifted, and spread evenly over the positions of one.

        A golden-ratio sequence from a random start: the low-discrepancy sampler of Kingma et al. 2021 (arXiv:2107.00630)
        without having to know the size of the global batch. Its losses vary less from step to step.
        """
        # v = (u + position * phi) mod 1, with u uniform for each step and phi the golden ratio less one.
        start = generator(self.seed, "timestep", address.step).random()
        share = (start + address.position * _GOLDEN_RATIO) % 1
        # t = floor(T * s v / (1 + (s - 1) v)), the shift of Esser et al. 2024 (arXiv:2403.03206, equation 23).
        shifted = self.timestep_shift * share / (1 + (self.timestep_shift - 1) * share)
        return min(int(shifted * self.num_train_timesteps), self.num_train_timesteps - 1)


class PixelItems(Dataset[dict[str, torch.Tensor]]):
    """Items for training the VAE, looked up by `Address`: `pixels` (3, H, W), `latent_noise` (C, h, w), `slice_index` ().

    With `most_added_noise` above zero also `added_noise` (C, h, w): noise whose standard deviation is drawn for each item,
    uniformly up to this.
    """

    def __init__(
        self,
        dataset: SpectrogramDataset,
        *,
        latent_shape: tuple[int, int, int],
        seed: int,
        most_added_noise: float = 0.0,
    ) -> None:
        self.dataset = dataset
        self.latent_shape = latent_shape
        self.seed = seed
        self.most_added_noise = most_added_noise

    def __getitem__(self, address: Address) -> dict[str, torch.Tensor]:
        at = (address.step, address.position)
        item = {
            "latent_noise": torch.from_numpy(normal(self.seed, "latent", self.latent_shape, *at)),
            "pixels": self.dataset.pixels(address.slice_index),
            "slice_index": torch.tensor(address.slice_index),
        }
        if self.most_added_noise:
            deviation = np.float32(self.most_added_noise * generator(self.seed, "added noise strength", *at).random())
            item["added_noise"] = torch.from_numpy(deviation * normal(self.seed, "added noise", self.latent_shape, *at))
        return item


def make_tokenize(tokenizer: Any) -> Tokenize:
    """Return the function from a caption to its token ids, padded or cut to the model's length."""

    def tokenize(text: str) -> torch.Tensor:
        length = tokenizer.model_max_length
        ids = tokenizer(text, padding="max_length", max_length=length, truncation=True)["input_ids"]
        return torch.tensor(ids)

    return tokenize
