"""A dataset folder as training reads it: images, captions, and items with the random draws of their address."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset

from riffusion_train.dataset.captions import CaptionDraws
from riffusion_train.dataset.layout import SHARD_DIR, DatasetFolder, open_dataset_folder
from riffusion_train.dataset.order import Address, generator, normal
from riffusion_train.runtime.errors import InputError, one_line

_GOLDEN_RATIO = (5**0.5 - 1) / 2

Tokenize = Callable[[str], torch.Tensor]
"""Caption to token ids (77,)."""


class SpectrogramDataset:
    """The slices of one split, read from the Parquet shards through a memory map.

    Raises:
        InputError: If the split is empty or damaged, or another writer than Parquet's wrote the dataset.
    """

    def __init__(self, folder: DatasetFolder, split: str) -> None:
        import datasets

        folder.require_parquet()
        shards = [str(path) for path in folder.shards(split)]
        if not folder.num_slices(split) or not shards:
            raise InputError(f"{folder.path}: the split '{split}' has no slices; prepare more audio, or other ratios")
        datasets.disable_progress_bars()
        self.folder, self._split = folder, split
        try:
            self.rows = datasets.load_dataset("parquet", data_files=shards, split="train")
        except (datasets.exceptions.DatasetGenerationError, pa.ArrowException, OSError) as error:
            cause = error.__cause__ or error
            if isinstance(cause, OSError) and cause.errno:  # such as no space for the copy that datasets makes
                raise cause from None
            raise InputError(
                f"{folder.path}: the shards of '{split}' cannot be read ({one_line(cause)}); {self._fix}"
            ) from None
        self._images = self.rows.select_columns(["image"])  # made once: it costs more than reading a row
        self._texts = self.rows.select_columns(["caption", "source", "start_s"])

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def image(self, index: int) -> np.ndarray:
        """Return the image of a slice as it is stored: uint8 (height, width) or (height, width, 3).

        Raises:
            InputError: If it is damaged, naming its shard, row and track.
        """
        try:
            return np.asarray(self._images[index]["image"])
        except Exception as error:  # Pillow raises classes of many kinds
            name, row = self._shard_row(index)
            raise InputError(
                f"{name}: the image in row {row}, {self.slice_name(index)}, is damaged ({one_line(error)}); {self._fix}"
            ) from None

    def _shard_row(self, index: int) -> tuple[Path, int]:
        """Return the shard of a slice, and its row in it, from 0."""
        for shard in (shard for shard in self.folder.stats["shards"] if shard["split"] == self._split):
            if index < shard["slices"]:
                return self.folder.path / SHARD_DIR / shard["name"], index
            index -= shard["slices"]
        raise IndexError(index)

    @property
    def _fix(self) -> str:
        return (
            f"riffusion prepare check {self.folder.path} lists all damage, and its prepare command with overwrite=true "
            "makes it anew"
        )

    def image_files(self) -> Iterator[memoryview]:
        """Yield the PNG file of every slice, in order, without decoding it."""
        for chunk in self.rows.data.column("image").chunks:
            for content in chunk.field("bytes"):
                yield memoryview(content.as_buffer())

    def pixels(self, index: int) -> torch.Tensor:
        """Return the image of a slice as the VAE takes it: float32 (3, height, width) in [-1, 1]."""
        image, size = self.image(index), self.folder.spectrogram
        if image.shape[:2] != (size.n_mels, size.width_px):
            raise InputError(
                f"{self.folder.path}: the image of {self.slice_name(index)} is {image.shape[1]} x {image.shape[0]}, "
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
        captions = self._texts[index]["caption"]
        if not captions:
            raise InputError(f"{self.folder.path}: the slice {self.slice_name(index)} has no caption; prepare it again")
        return list(captions)

    def all_captions(self, weights: Sequence[float] = ()) -> list[str]:
        """Return every caption of the split once, in the order of their first use.

        Args:
            weights: As of `CaptionDraws`: captions that have no weight in any slice are left out.
        """
        captions: dict[str, None] = {}  # a dict keeps the order
        for chunk in self.rows.data.column("caption").chunks:
            texts = pc.list_flatten(chunk)
            if 0 in weights:
                parents = pc.list_parent_indices(chunk).to_numpy(zero_copy_only=False)
                numbers = np.arange(len(parents)) - np.searchsorted(parents, parents)  # of the captions in their slices
                texts = texts.filter(pa.array(np.array(weights)[np.minimum(numbers, len(weights) - 1)] > 0))
            captions.update(dict.fromkeys(pc.unique(texts).drop_null().to_pylist()))
        return list(captions)

    def without_caption(self) -> list[int]:
        """Return the slices without a caption, or with one that is blank."""
        column = self.rows.data.column("caption")
        missing, start = [], 0
        for chunk in column.chunks:
            counts = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
            texts = pc.fill_null(pc.utf8_trim_whitespace(pc.list_flatten(chunk)), "")
            blank = pc.equal(texts, "").to_numpy(zero_copy_only=False).astype(bool)
            parents = pc.list_parent_indices(chunk).to_numpy(zero_copy_only=False)
            incomplete = (counts == 0) | np.isin(np.arange(len(chunk)), parents[blank])
            missing += [start + int(row) for row in np.flatnonzero(incomplete)]
            start += len(chunk)
        return missing

    def slice_name(self, index: int) -> str:
        """Return the name of a slice for messages: its source and start."""
        row = self._texts[index]
        return f"{row['source']} at {row['start_s']:.2f} s"


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
        """Draw a timestep, uniform over all steps and spread evenly over the positions of one.

        A golden-ratio sequence from a random start: the low-discrepancy sampler of Kingma et al. 2021 (arXiv:2107.00630)
        without having to know the size of the global batch. Its losses vary less from step to step.
        """
        # t = floor(T * ((u + position * phi) mod 1)), with u uniform for each step and phi the golden ratio less one.
        start = generator(self.seed, "timestep", address.step).random()
        return int((start + address.position * _GOLDEN_RATIO) % 1 * self.num_train_timesteps)


class PixelItems(Dataset[dict[str, torch.Tensor]]):
    """Items for training the VAE, looked up by `Address`: `pixels` (3, H, W), `latent_noise` (C, h, w), `slice_index` ()."""

    def __init__(self, dataset: SpectrogramDataset, *, latent_shape: tuple[int, int, int], seed: int) -> None:
        self.dataset = dataset
        self.latent_shape = latent_shape
        self.seed = seed

    def __getitem__(self, address: Address) -> dict[str, torch.Tensor]:
        latent_noise = normal(self.seed, "latent", self.latent_shape, address.step, address.position)
        return {
            "latent_noise": torch.from_numpy(latent_noise),
            "pixels": self.dataset.pixels(address.slice_index),
            "slice_index": torch.tensor(address.slice_index),
        }


def make_tokenize(tokenizer: Any) -> Tokenize:
    """Return the function from a caption to its token ids, padded or cut to the model's length."""

    def tokenize(text: str) -> torch.Tensor:
        length = tokenizer.model_max_length
        ids = tokenizer(text, padding="max_length", max_length=length, truncation=True)["input_ids"]
        return torch.tensor(ids)

    return tokenize
