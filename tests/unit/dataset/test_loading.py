from pathlib import Path

import numpy as np
import pytest
import torch
from support.worlds import write_dataset

from riffusion_train.config.errors import InputError
from riffusion_train.dataset.latents import LatentCache
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.dataset.loading import DiffusionSlices, SliceTable
from riffusion_train.dataset.order import Address


@pytest.fixture
def table(tmp_path: Path) -> SliceTable:
    return SliceTable(open_dataset_folder(write_dataset(tmp_path / "dataset")), "train")


def slices(table: SliceTable, **options: float) -> DiffusionSlices:
    settings = {"proportion_empty_prompts": 0.0, "noise_offset": 0.0} | options
    return DiffusionSlices(
        table,
        lambda text: torch.tensor([len(text)]),
        moments=None,
        latent_shape=(4, 8, 8),
        seed=0,
        num_train_timesteps=1000,
        **settings,
    )


def test_pixels_are_the_stored_levels_between_minus_one_and_one(table: SliceTable) -> None:
    pixels = table.pixels(3)
    assert pixels.shape == (3, 32, 32)
    assert torch.equal(((pixels + 1) * 127.5).round().to(torch.uint8)[0], torch.from_numpy(table.picture(3)))


def test_an_item_depends_on_its_address_alone(table: SliceTable) -> None:
    first, again, other = (slices(table)[Address(2, step, 1)] for step in (7, 7, 8))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["noise"], other["noise"])


def test_every_caption_of_a_slice_is_used_and_some_are_dropped(table: SliceTable) -> None:
    items = slices(table, proportion_empty_prompts=0.3)
    lengths = [int(items[Address(1, step, 0)]["input_ids"]) for step in range(300)]
    counts = {length: lengths.count(length) for length in set(lengths)}
    assert set(counts) == {0, len("band 1"), len("a line, number 1")}
    assert 60 <= counts[0] <= 120
    assert abs(counts[len("band 1")] - counts[len("a line, number 1")]) < 60


def test_timesteps_cover_the_whole_range(table: SliceTable) -> None:
    items = slices(table)
    steps = [int(items[Address(0, step, 0)]["timestep"]) for step in range(300)]
    assert min(steps) < 50
    assert max(steps) > 950


def test_the_timesteps_of_one_step_are_spread_evenly(table: SliceTable) -> None:
    items = slices(table)
    for step in range(5):
        places = sorted(int(items[Address(0, step, position)]["timestep"]) / 1000 for position in range(16))
        gaps = [after - before for before, after in zip(places, [*places[1:], places[0] + 1], strict=True)]
        assert max(gaps) < 3 / 16, "sixteen independent draws leave a gap twice as wide"
        assert min(gaps) > 0.2 / 16


def test_a_noise_offset_shifts_whole_channels(table: SliceTable) -> None:
    plain, shifted = slices(table)[Address(0, 0, 0)], slices(table, noise_offset=1.0)[Address(0, 0, 0)]
    difference = shifted["noise"] - plain["noise"]
    assert difference.std(dim=(1, 2)).max() < 1e-5
    assert difference.mean(dim=(1, 2)).abs().min() > 1e-3


def test_a_split_without_slices_is_refused(tmp_path: Path) -> None:
    folder = open_dataset_folder(write_dataset(tmp_path / "dataset", num_validation=0))
    with pytest.raises(InputError, match="the split 'validation' has no slices"):
        SliceTable(folder, "validation")


def test_two_ranks_fill_one_cache(table: SliceTable) -> None:
    cache = LatentCache(table, "key", (1, 1, 1))
    cache.create()
    for rank in range(2):
        cache.fill(
            lambda pixels: pixels.mean(dim=(1, 2, 3), keepdim=True),
            batch_size=5,
            rank=rank,
            world_size=2,
            report=lambda done, total: None,
        )
    assert not cache.exists()
    cache.finish()
    expected = [float(table.pixels(index).mean()) for index in range(len(table))]
    assert np.allclose(cache.open().ravel(), expected, atol=1e-6)


def test_latents_that_are_not_finite_name_their_slice(table: SliceTable) -> None:
    cache = LatentCache(table, "key", (1, 1, 1))
    cache.create()

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        moments = pixels.mean(dim=(1, 2, 3), keepdim=True)
        moments[1] = torch.nan
        return moments

    with pytest.raises(InputError, match=r"no finite latents for 1\.wav at 0\.00 s"):
        cache.fill(encode, batch_size=4, rank=0, world_size=1, report=lambda done, total: None)
