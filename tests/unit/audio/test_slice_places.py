import itertools

import pytest

from riffusion_train.audio.convert import slice_starts
from riffusion_train.runtime.errors import InputError


@pytest.mark.parametrize("strip_px", [1, 19, 20, 21, 35, 36, 37, 100])
@pytest.mark.parametrize("overlap_px", [0, 4, 10])
def test_slices_cover_the_strip_with_no_slice_to_spare(strip_px: int, overlap_px: int):
    starts = slice_starts(strip_px, 20, overlap_px)
    assert starts[0] == 0
    assert {b - a for a, b in itertools.pairwise(starts)} <= {20 - overlap_px}
    assert starts[-1] + 20 >= strip_px
    assert len(starts) == 1 or starts[-2] + 20 < strip_px


def test_an_overlap_of_more_than_half_is_refused():
    with pytest.raises(InputError, match="overlap=11 must lie between 0 and half of the width, 10"):
        slice_starts(100, 20, 11)
