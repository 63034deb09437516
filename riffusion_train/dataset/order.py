"""Which slice is trained on at which step and position, and every random draw: pure functions of the seed and an address."""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt

_ROUNDS = 10
"""Of the Feistel network; more than the four of the proof, because small datasets have halves of few bits."""
_TABLE_SIZE, _TABLES = 2**16, 4


def generator(seed: int, purpose: str, *address: int) -> np.random.Generator:
    """Return the generator at an address.

    Args:
        seed: The run's or clip's seed.
        purpose: What the numbers are for; different purposes never share numbers.
        address: Up to three non-negative integers, such as the step and the position in the global batch.
    """
    # Philox is a counter-based generator (Salmon et al. 2011): its 128-bit key is the seed and a hash of the purpose, its
    # 256-bit counter is (0, address), whose first word counts the numbers drawn. So no two addresses share numbers.
    padded = (*address, 0, 0, 0)[:3]
    if len(address) > len(padded):
        raise ValueError(f"an address has at most three parts, not {len(address)}")
    key = np.array([seed % 2**64, zlib.crc32(purpose.encode())], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, *padded], dtype=np.uint64)))


def normal(seed: int, purpose: str, shape: tuple[int, ...], *address: int) -> np.ndarray:
    """Return standard normal float32 numbers of `shape`, drawn at an address."""
    return generator(seed, purpose, *address).standard_normal(shape, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Address:
    """One item of a training run: a slice at a step and position."""

    slice_index: int
    """Row of the dataset."""
    step: int
    """Optimizer step, from 0."""
    position: int
    """Position in the global batch of that step."""


class Order(Protocol):
    """Which slice is item `number` of a run, counted from its start; every rank and every start agrees."""

    def slice_indices(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the slices of items."""
        ...


def permuted(numbers: npt.NDArray[np.int64], size: int, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return where a permutation of the numbers below `size` takes some of them, without storing it.

    A Feistel network is a permutation of the numbers of 2b bits whatever its round function is (Luby and Rackoff 1988); walking
    on along a cycle until a number is below `size` makes it one of any size (Black and Rogaway 2002, "Ciphers with Arbitrary
    Finite Domains", section 4). With 4^b < 4 size, a walk takes four steps on average at most.

    Args:
        numbers: Below `size`, of any shape.
        size: At least 1.
        keys: One for each round.
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    mask = np.uint64((1 << int(half)) - 1)
    values = numbers.astype(np.uint64).ravel()
    walking = np.arange(len(values))
    while len(walking):
        left, right = values[walking] >> half, values[walking] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        values[walking] = left << half | right
        walking = walking[values[walking] >= size]
    return values.astype(np.int64).reshape(numbers.shape)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return hashes of numbers: the finalizer of SplitMix64 (Steele et al. 2014), modulo 2^64 as numpy's arrays compute."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class EpochOrder:
    """An endless order of the slices: every epoch is its own permutation of all of them, computed rather than stored.

    Args:
        num_slices: How many slices there are.
        seed: The run's seed.
        window: None permutes all slices freely. A number puts the blocks in another order first, divides the row of their
            slices into windows of so many, and permutes the slices within each: so a run reads few blocks at a time, as it
            should from a store, and still meets slices from all over the dataset in every window.
        block_starts: With a window: the first slice of each block, which is best a row group.
    """

    def __init__(
        self,
        num_slices: int,
        seed: int,
        window: int | None = None,
        block_starts: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.num_slices = num_slices
        self.seed = seed
        self.window = None if window is None or window >= num_slices else window
        self._starts = np.zeros(1, np.int64) if block_starts is None else block_starts
        self._epoch = -1
        self._tables: dict[
            tuple[int, ...], npt.NDArray[np.int64]
        ] = {}  # short permutations of late, which are quicker so
        self._blocks = self._ends = np.empty(0, np.int64)  # of an epoch: the blocks in its order, and where each ends

    def slice_index(self, number: int) -> int:
        """Return the slice of item `number`, counted from the start of the run."""
        return int(self.slice_indices(np.array([number]))[0])

    def slice_indices(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the slices of items, counted from the start of the run."""
        epochs, offsets = np.divmod(np.asarray(numbers, np.int64), self.num_slices)
        if self.window is None:
            return self._by_part(epochs, lambda epoch, here: self._permuted(offsets[here], self.num_slices, epoch))
        return self._by_part(epochs, lambda epoch, here: self._in_windows(epoch, offsets[here]))

    def _in_windows(self, epoch: int, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        window = self.window or self.num_slices
        numbers, within = np.divmod(offsets, window)

        def shuffled(number: int, here: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
            first = number * window
            size = min(window, self.num_slices - first)
            return first + self._permuted(within[here], size, epoch, number + 1)

        places = self._by_part(numbers, shuffled)
        if epoch != self._epoch:
            count = len(self._starts)
            self._blocks = self._permuted(np.arange(count), count, epoch, 0)
            sizes = np.diff(self._starts, append=self.num_slices)[self._blocks]
            self._ends, self._epoch = np.cumsum(sizes), epoch
        ranks = np.searchsorted(self._ends, places, side="right")
        blocks = self._blocks[ranks]
        lasts = np.append(self._starts[1:], self.num_slices)[blocks]
        return lasts - (self._ends[ranks] - places)

    def _permuted(self, numbers: npt.NDArray[np.int64], size: int, *address: int) -> npt.NDArray[np.int64]:
        table = self._tables.get((size, *address))
        if table is not None:
            return table[numbers]
        keys = generator(self.seed, "slice order", *address).integers(2**64, size=_ROUNDS, dtype=np.uint64)
        if size > _TABLE_SIZE:
            return permuted(numbers, size, keys)
        if len(self._tables) == _TABLES:
            del self._tables[next(iter(self._tables))]
        self._tables[(size, *address)] = permuted(np.arange(size), size, keys)
        return self._tables[(size, *address)][numbers]

    @staticmethod
    def _by_part(
        parts: npt.NDArray[np.int64], work: Callable[[int, npt.NDArray[np.bool_]], npt.NDArray[np.int64]]
    ) -> npt.NDArray[np.int64]:
        """Return what `work` gives for the items of each part, such as an epoch, in the order of the items."""
        found = np.empty(parts.shape, np.int64)
        for part in np.unique(parts):
            here = parts == part
            found[here] = work(int(part), here)
        return found


class StoredOrder:
    """The order of runs that version 0.1.0 began: each epoch is a stored shuffle, 8 bytes for each slice."""

    def __init__(self, num_slices: int, seed: int) -> None:
        self.num_slices = num_slices
        self.seed = seed
        self._epoch = -1
        self._shuffle = np.empty(0, dtype=np.int64)

    def slice_indices(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the slices of items, counted from the start of the run."""
        return np.array([self._slice_index(int(number)) for number in numbers], np.int64)

    def _slice_index(self, number: int) -> int:
        epoch, offset = divmod(number, self.num_slices)
        if epoch != self._epoch:
            self._epoch = epoch
            self._shuffle = generator(self.seed, "epoch order", epoch).permutation(self.num_slices)
        return int(self._shuffle[offset])


class MixedOrder:
    """An endless order over several datasets, each with its share of the items, spread evenly over every batch.

    Item n belongs to the first dataset where floor((n + 1) w) is above floor(n w), w being its share of all weights (a Beatty
    sequence; Bresenham's line): so the first n items hold n w of it, rounded down. It is item floor(n w) of its dataset. The
    other datasets share the rest in the same way.

    Args:
        orders: The order of each dataset; its seed should differ from those of the others.
        weights: How often each is taken, in proportion, above 0.
    """

    def __init__(self, orders: Sequence["EpochOrder"], weights: Sequence[float]) -> None:
        self.orders = list(orders)
        self._weights = [Fraction(str(weight)) for weight in weights]
        self._firsts = np.cumsum([0, *(order.num_slices for order in orders)])

    def slice_indices(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the slices of items; the slices of the second dataset are numbered on from those of the first."""
        found = np.empty(len(numbers), np.int64)
        rest, number = np.arange(len(numbers)), np.asarray(numbers, np.int64)
        for dataset, order in enumerate(self.orders):
            share = self._weights[dataset] / sum(self._weights[dataset:])
            before = _floor_product(number, share)
            is_own = _floor_product(number + 1, share) > before
            found[rest[is_own]] = self._firsts[dataset] + order.slice_indices(before[is_own])
            rest, number = rest[~is_own], (number - before)[~is_own]
        return found


def _floor_product(numbers: npt.NDArray[np.int64], share: Fraction) -> npt.NDArray[np.int64]:
    """Return floor(number * share), exactly: Python's integers do not overflow."""
    top, bottom = share.numerator, share.denominator
    return np.array([int(number) * top // bottom for number in numbers], np.int64)


class AddressedBatches:
    """The batches of one rank: a batch sampler whose items are addresses, for any rank, from any step.

    The global batch of a step has `batch_size * accumulation * world_size` positions. Forward pass `m` of rank `r` takes the
    `batch_size` positions from `(m * world_size + r) * batch_size`, so that the global batch holds the same slices however
    many processes share it.
    """

    def __init__(
        self,
        order: Order,
        *,
        batch_size: int,
        accumulation: int,
        rank: int,
        world_size: int,
        first_step: int,
        last_step: int,
    ) -> None:
        self.order = order
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.rank = rank
        self.world_size = world_size
        self.first_step = first_step
        self.last_step = last_step

    @property
    def global_batch_size(self) -> int:
        """Slices of one optimizer step over all ranks."""
        return self.batch_size * self.accumulation * self.world_size

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.accumulation

    def __iter__(self) -> Iterator[list[Address]]:
        for step in range(self.first_step, self.last_step):
            yield from self.batches_of(step)

    def batches_of(self, step: int) -> list[list[Address]]:
        """Return the forward batches of this rank in a step."""
        starts = [(forward * self.world_size + self.rank) * self.batch_size for forward in range(self.accumulation)]
        positions = np.array(starts)[:, None] + np.arange(self.batch_size)
        numbers = step * self.global_batch_size + positions.ravel()
        slices = iter(self.order.slice_indices(numbers).tolist())
        return [[Address(next(slices), step, int(position)) for position in batch] for batch in positions]


def spread(count: int, most: int | None) -> list[int]:
    """Return the numbers below `count`, or `most` of them, spread evenly."""
    if most is None or most >= count:
        return list(range(count))
    return [index * count // most for index in range(most)]
