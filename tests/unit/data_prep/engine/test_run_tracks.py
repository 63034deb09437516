from data_prep.engine.run_tracks import RunStats
from data_prep.tracks.track_store import TrackResult


def test_the_bar_tells_hours_speed_slices_and_rejects():
    clock = iter([100.0, 104.0, 110.0])
    pace = RunStats(lambda: next(clock))
    pace.add(TrackResult("a", slices=20, duration_s=180.0))
    assert pace.figures() == "0.05 h, 45× real time, 20 slices"
    pace.add(TrackResult("b", slices=3, duration_s=3600.0, reused=True))
    pace.add(TrackResult("c", reason="unreadable"))
    assert pace.figures() == "1.05 h, 18× real time, 23 slices, 1 rejected"


def test_no_speed_is_told_where_nothing_was_decoded():
    clock = iter([0.0, 1.0])
    pace = RunStats(lambda: next(clock))
    pace.add(TrackResult("a", slices=1, duration_s=36.0, reused=True))
    assert pace.figures() == "0.01 h, 1 slices"
