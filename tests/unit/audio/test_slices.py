import itertools

import numpy as np
import pytest

from riffusion_train.audio.slices import Slice, join_slices, slice_starts
from riffusion_train.config.errors import InputError


def strip(width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, width), dtype=np.uint8)


@pytest.mark.parametrize("strip_px", [1, 19, 20, 21, 35, 36, 37, 100])
@pytest.mark.parametrize("overlap_px", [0, 4, 10])
def test_slices_cover_the_strip_with_no_slice_to_spare(strip_px: int, overlap_px: int):
    starts = slice_starts(strip_px, 20, overlap_px)
    assert starts[0] == 0
    assert {b - a for a, b in itertools.pairwise(starts)} <= {20 - overlap_px}
    assert starts[-1] + 20 >= strip_px
    assert len(starts) == 1 or starts[-2] + 20 < strip_px


def test_slices_of_a_strip_join_to_the_strip():
    whole = strip(52)
    slices = [Slice(whole[:, start : start + 20], start, 7.0) for start in slice_starts(52, 20, 4)]
    joined, max_value = join_slices(slices[::-1], 0.25, "here")
    np.testing.assert_allclose(joined * 255, whole, atol=1e-3)
    assert max_value == 7.0


def test_where_slices_overlap_one_fades_into_the_other():
    black, white = np.zeros((4, 10), np.uint8), np.full((4, 10), 255, np.uint8)
    joined, _ = join_slices([Slice(black, 0, 1.0), Slice(white, 6, 1.0)], 0.25, "here")
    np.testing.assert_allclose(joined[0, 5:11], [0, 0.2, 0.4, 0.6, 0.8, 1], atol=1e-6)


def test_slices_are_brought_to_the_largest_maximum():
    grey = np.full((4, 10), 55, np.uint8)
    joined, max_value = join_slices([Slice(grey, 0, 1.0), Slice(grey, 10, 16.0)], 0.25, "here")
    assert max_value == 16.0
    dark = 1 - 55 / 255
    np.testing.assert_allclose(joined[0, [0, -1]], [1 - dark / 2, 1 - dark], atol=1e-6)  # 16 ** 0.25 is 2


def test_a_slice_of_unknown_level_makes_the_level_unknown_unless_it_is_white():
    grey, white = np.full((4, 10), 55, np.uint8), np.full((4, 10), 255, np.uint8)
    assert join_slices([Slice(grey, 0, 2.0), Slice(grey, 10, None)], 0.25, "here")[1] is None
    assert join_slices([Slice(grey, 0, 2.0), Slice(white, 10, 0.0)], 0.25, "here")[1] == 2.0


def test_grey_and_coloured_slices_join_in_colour():
    joined, _ = join_slices([Slice(strip(10), 0, 1.0), Slice(np.zeros((8, 10, 3), np.uint8), 10, 1.0)], 0.25, "here")
    assert joined.shape == (8, 20, 3)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(InputError, match="songs: columns 10 to 15 are in no image"):
        join_slices([Slice(strip(10), 0, 1.0), Slice(strip(10), 15, 1.0)], 0.25, "songs")
    with pytest.raises(InputError, match="8 and 9 px high"):
        join_slices([Slice(strip(10), 0, 1.0), Slice(np.zeros((9, 9), np.uint8), 10, 1.0)], 0.25, "songs")
    with pytest.raises(InputError, match="overlap=11 must lie between 0 and half of the width, 10"):
        slice_starts(100, 20, 11)
