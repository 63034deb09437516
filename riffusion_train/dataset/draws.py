"""Addressed randomness: every draw is a pure function of a seed, a purpose and an address.

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is a counter-based generator: its key is made of
the seed and the purpose, its counter of the address. No stream has to be saved, shared or fast-forwarded, so one process
and eight, a fresh run and a resumed one, and any number of loader workers draw the same numbers.
"""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *address: int) -> np.random.Generator:
    """Return the generator at an address.

    Args:
        seed: The run's or clip's seed.
        purpose: What the numbers are for; different purposes never share numbers.
        address: Up to three non-negative integers, such as the step and the position in the global batch.
    """
    padded = (*address, 0, 0, 0)[:3]
    if len(address) > len(padded):
        raise ValueError(f"an address has at most three parts, not {len(address)}")
    key = np.array([seed % 2**64, zlib.crc32(purpose.encode())], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, *padded], dtype=np.uint64)))


def normal(seed: int, purpose: str, shape: tuple[int, ...], *address: int) -> np.ndarray:
    """Return standard normal float32 numbers of `shape`, drawn at an address."""
    return generator(seed, purpose, *address).standard_normal(shape, dtype=np.float32)
