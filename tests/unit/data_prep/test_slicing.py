from hypothesis import given
from hypothesis import strategies as st

from data_prep.tracks.windows import fixed_windows


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
    windows = fixed_windows(samples, clip, stride, shortest)
    assert [window.start for window in windows] == [index * stride for index in range(len(windows))]
    assert all(window.start + window.length <= samples for window in windows)
    assert all(window.length == clip for window in windows[:-1])
    assert all(window.length >= min(clip, shortest) for window in windows)
