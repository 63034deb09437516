import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.corpus_files import tone

from data_prep.tracks import windows
from data_prep.tracks.windows import Window

CASES, A_TIME = 10_000, 20
TRACKS = st.lists(
    st.tuples(st.integers(0, 900), st.integers(1, 90), st.integers(1, 120), st.integers(1, 90), st.integers(0, 6)),
    min_size=A_TIME,
    max_size=A_TIME,
)


@settings(max_examples=CASES // A_TIME, deadline=None)
@given(TRACKS)
def test_every_kind_of_window_lies_in_its_track(cases):
    for samples, clip, stride, shortest, count in cases:
        fixed = windows.fixed_windows(samples, clip, stride, shortest)
        back = windows.overlap_back(fixed, samples, clip)
        points = list(range(count, samples, 7 + count))
        aligned = windows.aligned_windows(points, samples, clip, stride)
        drawn = windows.random_windows(samples, clip, count, f"{samples} {clip}")
        for found in (fixed, back, aligned, drawn):
            assert all(start >= 0 and 0 < length <= clip and start + length <= samples for start, length in found)
            assert found == sorted(set(found))
        assert all(length == clip for windows in (back, aligned, drawn) for _, length in windows)
        if samples >= clip:
            assert back[-1].start + clip == samples or back == fixed
        assert {window.start for window in aligned} <= set(points) and len(drawn) <= count
        assert (
            set(windows.spread(fixed, count + 1)) <= set(fixed) and len(windows.spread(fixed, count + 1)) <= count + 1
        )


def test_the_tail_may_overlap_back():
    assert windows.overlap_back([Window(0, 10), Window(10, 5)], 15, 10) == [(0, 10), (5, 10)]
    assert windows.overlap_back([Window(0, 7)], 7, 10) == []
    assert windows.overlap_back([Window(0, 10)], 10, 10) == [(0, 10)]


def test_windows_begin_on_the_first_beat_a_stride_later():
    assert windows.aligned_windows([2, 5, 8, 11, 14, 17], 25, 6, 6) == [(2, 6), (8, 6), (14, 6)]
    assert windows.aligned_windows([2, 5, 8, 11, 14, 17], 25, 6, 7) == [(2, 6), (11, 6)]


def test_random_windows_follow_their_address():
    assert windows.random_windows(1000, 10, 5, "a") == windows.random_windows(1000, 10, 5, "a")
    assert windows.random_windows(1000, 10, 5, "a") != windows.random_windows(1000, 10, 5, "b")


def test_slices_are_spread_over_the_whole_track():
    windows = [Window(index, 1) for index in range(10)]
    assert [window.start for window in windows.spread(windows, 4)] == [0, 2, 5, 7]


def test_stretches_lie_between_silences():
    wav = np.concatenate([np.zeros((1, 10000)), tone(200, 1, 8000), np.zeros((1, 8000)), tone(200, 1, 8000)], axis=1)
    found = windows.sounding_stretches(wav.astype(np.float32), 8000, -60)
    assert [(pytest.approx(start, abs=400), pytest.approx(length, abs=800)) for start, length in found] == [
        (10000, 8000),
        (26000, 8000),
    ]
    assert windows.sounding_stretches(np.zeros((1, 100), np.float32), 8000, -60) == []
