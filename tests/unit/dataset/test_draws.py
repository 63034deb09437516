import numpy as np
import pytest

from riffusion_train.dataset.order import generator, normal


def test_an_address_always_gives_the_same_numbers() -> None:
    assert np.array_equal(normal(5, "noise", (4, 8), 3, 2), normal(5, "noise", (4, 8), 3, 2))


def test_seed_purpose_and_every_part_of_the_address_matter() -> None:
    wanted = [(5, "noise", 3, 2), (6, "noise", 3, 2), (5, "latent", 3, 2), (5, "noise", 4, 2), (5, "noise", 3, 3)]
    drawn = [tuple(normal(seed, purpose, (4,), *at)) for seed, purpose, *at in wanted]
    assert len(set(drawn)) == len(wanted)


def test_neighbouring_addresses_are_not_correlated() -> None:
    rows = np.stack([normal(0, "noise", (4096,), step, 0) for step in range(8)])
    correlation = np.corrcoef(rows) - np.eye(8)
    assert np.abs(correlation).max() < 0.08
    assert abs(rows.mean()) < 0.03
    assert abs(rows.std() - 1) < 0.03


def test_an_address_has_at_most_three_parts() -> None:
    with pytest.raises(ValueError, match="at most three"):
        generator(0, "noise", 1, 2, 3, 4)
