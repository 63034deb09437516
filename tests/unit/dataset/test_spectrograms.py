from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.nano import write_dataset

from riffusion_train.dataset.captions import CaptionDraws
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.dataset.order import Address, AddressedBatches, EpochOrder, generator
from riffusion_train.dataset.spectrograms import LatentItems, PixelItems, SpectrogramDataset, Texts, slice_keys
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.caches import latent_cache


@pytest.fixture
def table(tmp_path: Path) -> SpectrogramDataset:
    return SpectrogramDataset(open_dataset_folder(write_dataset(tmp_path / "dataset")), "train")


def slices(
    table: SpectrogramDataset,
    texts: Texts | None = None,
    *,
    noise_offset: float = 0.0,
    timestep_shift: float = 1.0,
    **captions: Any,
) -> LatentItems:
    return LatentItems(
        table,
        lambda text: torch.tensor([len(text)]),
        moments=None,
        texts=texts,
        latent_shape=(4, 8, 8),
        seed=0,
        num_train_timesteps=1000,
        captions=CaptionDraws(seed=0, **captions),
        noise_offset=noise_offset,
        timestep_shift=timestep_shift,
    )


@pytest.mark.parametrize(("shift", "below_a_tenth", "above_nine_tenths"), [(1.0, 0.1, 0.1), (0.25, 0.31, 0.027)])
def test_a_shift_draws_timesteps_with_little_noise_more_often(
    table: SpectrogramDataset, shift: float, below_a_tenth: float, above_nine_tenths: float
) -> None:
    # Of u / (4 - 3 u), the shift by a quarter, a tenth is reached at u = .4 / 1.3 and nine tenths at u = 3.6 / 3.7.
    items = slices(table, timestep_shift=shift)
    drawn = torch.stack([items[Address(0, step, position)]["timestep"] for step in range(40) for position in range(8)])
    assert drawn.min() >= 0 and drawn.max() <= 999
    assert float((drawn < 100).float().mean()) == pytest.approx(below_a_tenth, abs=0.03)
    assert float((drawn >= 900).float().mean()) == pytest.approx(above_nine_tenths, abs=0.02)


def test_pixels_are_the_stored_levels_between_minus_one_and_one(table: SpectrogramDataset) -> None:
    pixels = table.pixels(3)
    assert pixels.shape == (3, 32, 32)
    assert torch.equal(((pixels + 1) * 127.5).round().to(torch.uint8)[0], torch.from_numpy(table.image(3)))


def test_noise_for_the_decoder_is_of_many_strengths_up_to_the_largest(table: SpectrogramDataset) -> None:
    items = PixelItems(table, latent_shape=(4, 32, 32), seed=0, most_added_noise=0.5)
    strengths = torch.stack([items[Address(0, step, 0)]["added_noise"].std() for step in range(40)])
    assert 0.4 < strengths.max() <= 0.52 and strengths.min() < 0.1
    assert items[Address(0, 3, 1)]["added_noise"].equal(
        items[Address(5, 3, 1)]["added_noise"]
    )  # of its place in the run
    assert "added_noise" not in PixelItems(table, latent_shape=(4, 32, 32), seed=0)[Address(0, 0, 0)]


def flip_a_byte(path: Path, row: int) -> None:
    """Flip a byte in the middle of an image of a Parquet shard, in place."""
    png = pq.read_table(path).to_pylist()[row]["image"]["bytes"]
    part = png[len(png) // 2 :][:8]  # short, since Parquet compresses; it may hold an image again as a statistic
    path.write_bytes(path.read_bytes().replace(part, bytes([part[0] ^ 0xFF]) + part[1:]))


def test_a_damaged_image_is_named_by_shard_row_and_track(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "dataset")
    shard = folder / "data" / "train-00000.parquet"
    flip_a_byte(shard, 7)
    dataset = SpectrogramDataset(open_dataset_folder(folder), "train")
    assert dataset.pixels(6).shape == (3, 32, 32)
    with pytest.raises(InputError) as caught:
        dataset.pixels(7)
    message = str(caught.value)
    assert message.startswith(f"{shard}: the image in row 7, {dataset.slice_name(7)}, is damaged (")
    assert f"riffusion prepare check {folder} lists all damage" in message and "\n" not in message


def test_a_shard_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "dataset")
    shard = folder / "data" / "train-00000.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 4] + bytes(len(content) // 2) + content[len(content) * 3 // 4 :])
    with pytest.raises(InputError, match=r"the shards of 'train' cannot be read \(.*riffusion prepare check"):
        SpectrogramDataset(open_dataset_folder(folder), "train")


def test_an_item_depends_on_its_address_alone(table: SpectrogramDataset) -> None:
    first, again, other = (slices(table)[Address(2, step, 1)] for step in (7, 7, 8))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["noise"], other["noise"])


def test_every_caption_of_a_slice_is_used_and_some_are_dropped(table: SpectrogramDataset) -> None:
    items = slices(table, proportion_empty_prompts=0.3)
    lengths = [int(items[Address(1, step, 0)]["input_ids"]) for step in range(300)]
    counts = {length: lengths.count(length) for length in set(lengths)}
    assert set(counts) == {0, len("band 1"), len("a line, number 1")}
    assert 60 <= counts[0] <= 120
    assert abs(counts[len("band 1")] - counts[len("a line, number 1")]) < 60


def test_without_augmentation_captions_are_drawn_as_they_always_were(table: SpectrogramDataset) -> None:
    items = slices(table, proportion_empty_prompts=0.3)
    for step in range(50):
        draw = generator(0, "caption", step, 2)
        chosen = ["band 4", "a line, number 4"][int(draw.integers(2))]
        text = "" if draw.random() < 0.3 else chosen
        assert int(items[Address(4, step, 2)]["input_ids"]) == len(text)


@pytest.mark.parametrize("num_variants", [None, 3])
def test_the_captions_of_a_step_are_the_same_for_any_number_of_processes_and_any_first_step(
    table: SpectrogramDataset, num_variants: int | None
) -> None:
    draws = CaptionDraws(0, 0.2, [3, 1], True, 0, 0.2, num_variants)

    def texts(world_size: int, first_step: int = 0) -> dict[tuple[int, int], str]:
        """Return the texts of ten steps of eight items, by step and position, read through the batches of every rank."""
        order = EpochOrder(len(table), 0)
        options = {"batch_size": 8 // world_size, "accumulation": 1, "first_step": first_step, "last_step": 10}
        ranks = [AddressedBatches(order, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
        return {
            (at.step, at.position): draws.draw([f"a {at.slice_index}, b, c, d", "e, f"], at.step, at.position)
            for batches in ranks
            for batch in batches
            for at in batch
        }

    whole = texts(1)
    assert len(whole) == 80 and len(set(whole.values())) > 20
    assert texts(8) == texts(2) == whole
    half = {at: text for at, text in whole.items() if at[0] < 5}
    assert half | texts(8, first_step=5) == whole


def test_timesteps_cover_the_whole_range(table: SpectrogramDataset) -> None:
    items = slices(table)
    steps = [int(items[Address(0, step, 0)]["timestep"]) for step in range(300)]
    assert min(steps) < 50
    assert max(steps) > 950


def test_the_timesteps_of_one_step_are_spread_evenly(table: SpectrogramDataset) -> None:
    items = slices(table)
    for step in range(5):
        places = sorted(int(items[Address(0, step, position)]["timestep"]) / 1000 for position in range(16))
        gaps = [after - before for before, after in zip(places, [*places[1:], places[0] + 1], strict=True)]
        assert max(gaps) < 3 / 16, "sixteen independent draws leave a gap twice as wide"
        assert min(gaps) > 0.2 / 16


def test_a_noise_offset_shifts_whole_channels(table: SpectrogramDataset) -> None:
    plain, shifted = slices(table)[Address(0, 0, 0)], slices(table, noise_offset=1.0)[Address(0, 0, 0)]
    difference = shifted["noise"] - plain["noise"]
    assert difference.std(dim=(1, 2)).max() < 1e-5
    assert difference.mean(dim=(1, 2)).abs().min() > 1e-3


def test_a_split_without_slices_is_refused(tmp_path: Path) -> None:
    folder = open_dataset_folder(write_dataset(tmp_path / "dataset", num_validation=0))
    with pytest.raises(InputError, match="the split 'validation' has no slices"):
        SpectrogramDataset(folder, "validation")


def test_every_caption_gets_one_row_beside_the_empty_one(table: SpectrogramDataset) -> None:
    captions = CaptionDraws(seed=0).texts(table.all_captions())
    assert captions[:3] == ["", "band 0", "a line, number 0"]
    assert len(captions) == len(set(captions)) == 1 + 2 * len(table)


def test_variants_of_captions_get_rows_and_captions_that_are_never_drawn_get_none(table: SpectrogramDataset) -> None:
    draws = CaptionDraws(seed=0, weights=[1, 0], shuffle_tags=True, num_variants=20)
    firsts = table.all_captions(draws.weights)
    assert firsts == [f"band {index}" for index in range(len(table))]
    assert len(table.all_captions([1, 0, 1])) == len(table)
    assert draws.texts(["a, b", "band 1", "b, a"]) == ["", *draws.variants("a, b"), "band 1"]
    assert set(draws.variants("a, b")) == {"a, b", "b, a"}


def test_every_caption_that_is_drawn_has_a_cached_row(table: SpectrogramDataset) -> None:
    options = {"proportion_empty_prompts": 0.2, "shuffle_tags": True, "tag_dropout": 0.3, "num_variants": 3}
    rows = CaptionDraws(seed=0, **options).texts(table.all_captions())

    class Asked:
        def __init__(self) -> None:
            self.captions: set[str] = set()

        def __getitem__(self, caption: str) -> np.ndarray:
            self.captions.add(caption)
            return np.zeros((77, 4), np.float32)

    asked = Asked()
    items = slices(table, asked, **options)
    for step in range(60):
        items[Address(step % len(table), step, step % 5)]
    assert asked.captions <= set(rows) and "a line" in asked.captions and "" in asked.captions


def test_cached_hidden_states_are_those_of_the_caption_that_would_be_tokenized(table: SpectrogramDataset) -> None:
    class Lengths:
        def __getitem__(self, caption: str) -> np.ndarray:
            return np.full((77, 4), len(caption), np.float32)

    plain = slices(table, proportion_empty_prompts=0.3)
    cached = slices(table, Lengths(), proportion_empty_prompts=0.3)
    lengths = set()
    for step in range(100):
        address = Address(step % len(table), step, step % 7)
        one, other = plain[address], cached[address]
        assert other["hidden_states"].shape == (77, 4)
        assert float(other.pop("hidden_states")[0, 0]) == int(one["input_ids"])
        lengths.add(int(one.pop("input_ids")))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert 0 in lengths


def test_latents_that_are_not_finite_name_their_slice(table: SpectrogramDataset) -> None:
    cache = latent_cache(table, slice_keys(table, keep=False), "key", (1, 1, 1))
    cache.allocate()

    def encode(rows: range) -> torch.Tensor:
        moments = torch.stack([table.pixels(index).mean().reshape(1, 1, 1) for index in rows])
        moments[1] = torch.nan
        return moments

    with pytest.raises(InputError, match=r"the VAE gives no finite latents for 1\.wav at 0\.00 s"):
        cache.fill(cache.missing(rank=0, world_size=1), encode, lambda done: None)
