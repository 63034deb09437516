from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from riffusion_train.dataset.order import Address, AddressedBatches, EpochOrder


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
