"""Which slice is trained on at which step and position, and every random draw: pure functions of the seed and an address."""

import dataclasses
import zlib
from collections.abc import Iterator

import numpy as np


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


class EpochOrder:
    """An endless order of the slices: every epoch is its own shuffle of all of them."""

    def __init__(self, num_slices: int, seed: int) -> None:
        self.num_slices = num_slices
        self.seed = seed
        self._epoch = -1
        self._shuffle = np.empty(0, dtype=np.int64)

    def slice_index(self, number: int) -> int:
        """Return the slice of item `number`, counted from the start of the run."""
        epoch, offset = divmod(number, self.num_slices)
        if epoch != self._epoch:
            self._epoch = epoch
            self._shuffle = generator(self.seed, "epoch order", epoch).permutation(self.num_slices)
        return int(self._shuffle[offset])


class AddressedBatches:
    """The batches of one rank: a batch sampler whose items are addresses, for any rank, from any step.

    The global batch of a step has `batch_size * accumulation * world_size` positions. Forward pass `m` of rank `r` takes the
    `batch_size` positions from `(m * world_size + r) * batch_size`, so that the global batch holds the same slices however
    many processes share it.
    """

    def __init__(
        self,
        order: EpochOrder,
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
            for forward in range(self.accumulation):
                start = (forward * self.world_size + self.rank) * self.batch_size
                yield [self._address(step, start + offset) for offset in range(self.batch_size)]

    def _address(self, step: int, position: int) -> Address:
        number = step * self.global_batch_size + position
        return Address(self.order.slice_index(number), step, position)


def spread(count: int, most: int | None) -> list[int]:
    """Return the numbers below `count`, or `most` of them, spread evenly."""
    if most is None or most >= count:
        return list(range(count))
    return [index * count // most for index in range(most)]
