import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_prep.output.stats import histogram
from riffusion_train.audio.plots import histogram_image


def test_a_histogram_spans_what_there_is_and_counts_what_lies_beyond_at_the_ends():
    assert histogram([-14.0, -13.9, -12.1, -9.0], -40, 0, 2) == {"start": -14.0, "step": 2, "counts": [3, 0, 1]}
    assert histogram([-90.0, 3.0], -40, 0, 20) == {"start": -40, "step": 20, "counts": [1, 1]}
    assert histogram([], -40, 0, 2) is None


@given(st.lists(st.floats(-1000, 1000), min_size=1))
def test_a_histogram_loses_no_value(values):
    counted = histogram(values, 40, 220, 10)
    assert sum(counted["counts"]) == len(values) and counted["counts"][0] and counted["counts"][-1]
    assert 40 <= counted["start"] <= 220 - 10 * len(counted["counts"])


@pytest.mark.parametrize("counts", [[3], [1, 0, 2, 12], [5] * 20])
def test_the_bars_of_a_histogram_stand_in_the_ratio_of_the_counts(counts):
    with Image.open(io.BytesIO(histogram_image("Loudness", "LUFS", -20, 2, counts))) as image:
        purple = (np.asarray(image.convert("RGB")) == (92, 84, 160)).all(axis=2)
    heights = purple.sum(axis=0)
    starts = np.flatnonzero(np.diff(np.r_[0, heights > 0].astype(int)) == 1)
    bars = [int(np.median(heights[start + 5 : start + 20])) for start in starts]
    shown = [count for count in counts if count]
    assert len(bars) == len(shown)
    assert [bar / max(bars) for bar in bars] == pytest.approx([count / max(shown) for count in shown], abs=0.02)
