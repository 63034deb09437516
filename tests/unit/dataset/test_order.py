from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riffusion_train.dataset.order import Address, AddressedBatches, EpochOrder, MixedOrder, StoredOrder, generator


def addresses(num_slices: int, ranks: int, batch: int, accumulation: int, first: int, last: int) -> set[Address]:
    found: list[Address] = []
    for rank in range(ranks):
        batches = AddressedBatches(
            EpochOrder(num_slices, seed=3),
            batch_size=batch,
            accumulation=accumulation,
            rank=rank,
            world_size=ranks,
            first_step=first,
            last_step=last,
        )
        made = list(batches)
        assert len(made) == len(batches)
        found += [address for made_batch in made for address in made_batch]
    assert len(set(found)) == len(found)
    return set(found)


@settings(deadline=None)
@given(st.integers(1, 50), st.sampled_from([(1, 8, 1), (2, 4, 1), (4, 2, 1), (2, 2, 2), (1, 2, 4)]), st.integers(0, 9))
def test_however_the_batch_is_shared_it_holds_the_same_slices(
    num_slices: int, shape: tuple[int, int, int], split_at: int
) -> None:
    whole = addresses(num_slices, 1, 8, 1, 0, 10)
    ranks, batch, accumulation = shape
    shared = addresses(num_slices, ranks, batch, accumulation, 0, split_at)
    shared |= addresses(num_slices, ranks, batch, accumulation, split_at, 10)
    assert shared == whole


@given(st.integers(1, 200), st.integers(0, 2**63))
def test_every_epoch_visits_every_slice_once(num_slices: int, seed: int) -> None:
    order = EpochOrder(num_slices, seed)
    for epoch in range(3):
        visited = Counter(order.slice_index(epoch * num_slices + place) for place in range(num_slices))
        assert visited == Counter(range(num_slices))


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    walks = {
        (seed, epoch): tuple(EpochOrder(100, seed).slice_index(epoch * 100 + place) for place in range(100))
        for seed in range(2)
        for epoch in range(2)
    }
    assert len(set(walks.values())) == 4


@pytest.mark.parametrize("num_slices", [1, 2, 3, 12, 101, 1000])
@pytest.mark.parametrize("window", [1, 7, 50, 5000])
def test_windows_visit_every_slice_once_an_epoch_and_any_part_of_the_order_is_the_same(
    num_slices: int, window: int
) -> None:
    order = EpochOrder(num_slices, 3, window, np.arange(0, num_slices, 7))
    numbers = np.arange(3 * num_slices)
    whole = order.slice_indices(numbers)
    for epoch in whole.reshape(3, num_slices):
        assert sorted(epoch.tolist()) == list(range(num_slices))
    again = EpochOrder(num_slices, 3, window, np.arange(0, num_slices, 7))
    assert [again.slice_index(number) for number in (2 * num_slices, 0, num_slices - 1)] == [
        whole[2 * num_slices],
        whole[0],
        whole[num_slices - 1],
    ]


def test_a_window_reads_few_blocks_from_all_over_the_dataset() -> None:
    order = EpochOrder(100_000, 0, 1000, np.arange(0, 100_000, 100))
    blocks = [set((order.slice_indices(np.arange(start, start + 1000)) // 100).tolist()) for start in (0, 5000, 99_000)]
    assert all(len(one) == 10 for one in blocks) and not blocks[0] & blocks[1]
    assert max(blocks[0]) - min(blocks[0]) > 300


def test_a_large_permutation_is_one_and_has_no_memory_of_its_numbers() -> None:
    size = 2**16 + 13  # above what is kept as a table
    whole = EpochOrder(size, 1).slice_indices(np.arange(size))
    assert len(np.unique(whole)) == size
    assert abs(np.corrcoef(whole[:-1], whole[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(whole, np.arange(size))[0, 1]) < 0.02


def test_all_orders_of_few_slices_are_equally_likely() -> None:
    counts = Counter(tuple(EpochOrder(4, seed).slice_indices(np.arange(4)).tolist()) for seed in range(2400))
    assert len(counts) == 24
    assert (
        sum((count - 100) ** 2 / 100 for count in counts.values()) < 50
    )  # chi squared, 23 degrees: 1 in 1,000 is 49.7


def test_runs_of_version_0_1_0_keep_their_order() -> None:
    order = StoredOrder(10, 7)
    expected = np.concatenate([generator(7, "epoch order", epoch).permutation(10) for epoch in range(3)])
    assert order.slice_indices(np.arange(30)).tolist() == expected.tolist()
    assert StoredOrder(10, 7).slice_indices(np.array([23])).tolist() == [expected[23]]


@pytest.mark.parametrize("weights", [[3, 1], [0.7, 0.2, 0.1], [1, 1, 5]])
def test_a_mixture_keeps_its_shares_everywhere_and_visits_every_slice_of_each_dataset(weights: list[float]) -> None:
    sizes = [10, 4, 6][: len(weights)]
    order = MixedOrder([EpochOrder(size, seed) for seed, size in enumerate(sizes)], weights)
    slices = order.slice_indices(np.arange(1000))
    ends = np.cumsum(sizes)
    datasets = np.searchsorted(ends, slices, side="right")
    for number, weight in enumerate(weights):
        share = weight / sum(weights)
        own = slices[datasets == number] - (ends[number] - sizes[number])
        assert abs(len(own) - 1000 * share) <= 1
        counts = [(datasets[start : start + 50] == number).sum() for start in range(0, 1000, 50)]
        assert max(abs(count - 50 * share) for count in counts) <= 2
        epochs = len(own) // sizes[number]
        for epoch in own[: epochs * sizes[number]].reshape(epochs, sizes[number]):
            assert sorted(epoch.tolist()) == list(range(sizes[number]))
    assert order.slice_indices(np.arange(400, 410)).tolist() == slices[400:410].tolist()
