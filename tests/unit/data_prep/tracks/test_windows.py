import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.corpus_files import tone

from data_prep.tracks import windows
from data_prep.tracks.windows import Window, fixed_windows
from riffusion_train.audio.read import Samples

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
        for laid in (fixed, back, aligned, drawn):
            assert all(start >= 0 and 0 < length <= clip and start + length <= samples for start, length in laid)
            assert laid == sorted(set(laid))
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
    touching = [Window(index, 1) for index in range(10)]
    assert [window.start for window in windows.spread(touching, 4)] == [0, 2, 5, 7]


def test_stretches_lie_between_silences():
    wav = np.concatenate([np.zeros((1, 10000)), tone(200, 1, 8000), np.zeros((1, 8000)), tone(200, 1, 8000)], axis=1)
    stretches = windows.sounding_stretches(Samples.of(wav.astype(np.float32)), 8000, -60)
    assert [(pytest.approx(start, abs=400), pytest.approx(length, abs=800)) for start, length in stretches] == [
        (10000, 8000),
        (26000, 8000),
    ]
    assert windows.sounding_stretches(Samples.of(np.zeros((1, 100), np.float32)), 8000, -60) == []


def test_full_windows_touch_and_the_rest_is_kept_from_the_shortest_length_on():
    assert fixed_windows(25, 10, 10, 5) == [(0, 10), (10, 10), (20, 5)]
    assert fixed_windows(25, 10, 10, 6) == [(0, 10), (10, 10)]


def test_a_short_file_gives_one_padded_window_or_none():
    assert fixed_windows(7, 10, 10, 7) == [(0, 7)]
    assert fixed_windows(7, 10, 10, 8) == []


def test_overlapping_windows_that_reach_the_end_get_no_padded_one_after_them():
    assert fixed_windows(20, 10, 5, 5) == [(0, 10), (5, 10), (10, 10)]


@given(st.integers(0, 500), st.integers(1, 60), st.integers(1, 90), st.integers(1, 90))
def test_windows_lie_in_the_track_on_the_stride_and_only_the_last_is_short(samples, clip, stride, shortest):
    laid = fixed_windows(samples, clip, stride, shortest)
    assert [window.start for window in laid] == [index * stride for index in range(len(laid))]
    assert all(window.start + window.length <= samples for window in laid)
    assert all(window.length == clip for window in laid[:-1])
    assert all(window.length >= min(clip, shortest) for window in laid)
