"""The data of the dataset page: which slices are shown, which warnings, and what the table of captions holds."""

import pytest

from data_prep.output.page_data import ShownSlice, _add_cells, choose_slices, quotas, warnings_of


def slices_of(counts):
    numbers = iter(range(sum(counts)))
    return [
        [ShownSlice("train", next(numbers), track, 5.0, 5.0, 1.0) for _ in range(count)]
        for track, count in enumerate(counts)
    ]


@pytest.mark.parametrize(
    ("counts", "most", "expected"),
    [
        ([3, 3], 10, [3, 3]),
        ([1, 9, 9], 7, [1, 3, 3]),
        ([4, 4, 4], 4, [2, 1, 1]),
        ([5] * 6, 3, [1, 0, 1, 0, 1, 0]),
        ([5, 5], 0, [0, 0]),
        ([], 4, []),
    ],
)
def test_slices_are_shared_out_evenly_over_the_tracks(counts, most, expected):
    assert quotas(counts, most) == expected


def test_the_slices_of_a_track_are_evenly_spread_over_it():
    chosen = choose_slices(slices_of([9, 1]), 4)
    assert [(item.track, item.number) for item in chosen] == [(0, 1), (0, 4), (0, 7), (1, 9)]


def test_warnings_are_read_in_every_form():
    expected = [{"kind": "tempo", "text": "says 90 bpm, is 120"}]
    assert warnings_of({"warnings": {"tempo": "says 90 bpm, is 120"}}) == expected
    assert warnings_of({"warnings": {"tempo": ["says 90 bpm, is 120"]}}) == expected
    assert warnings_of({"warnings": expected}) == expected
    assert warnings_of({"warnings": ["odd"]}) == [{"kind": "warning", "text": "odd"}]
    assert warnings_of({}) == []


def test_the_table_holds_its_own_columns_and_not_those_that_prepare_measures():
    tracks = [
        {"source": "a.wav", "columns": {"bpm": 120.0, "key": "A minor", "genre": "folk", "artist": "x", "year": 1999}},
        {"source": "b.wav", "columns": {"bpm": 90.0, "key": None, "genre": "rock", "artist": "y", "year": None}},
    ]
    lines = {
        "a.wav": {"measured": {"bpm": 120.0, "key": "A minor"}},
        "b.wav": {"measured": {"bpm": 91.0, "key": None}},  # its tempo is the table's
    }
    _add_cells(tracks, lines, "{artist}/{title}")
    assert [track["cells"] for track in tracks] == [
        {"bpm": "120.0", "genre": "folk", "year": "1999"},
        {"bpm": "90.0", "genre": "rock", "year": ""},
    ]
