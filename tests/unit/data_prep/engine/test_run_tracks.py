from data_prep.engine.run_tracks import RunStats
from data_prep.tracks.track_store import TrackResult


def test_the_figures_are_hours_speed_slices_and_rejected_tracks():
    clock = iter([100.0, 104.0, 110.0])
    stats = RunStats(lambda: next(clock))
    stats.add(TrackResult("a", slices=20, duration_s=180.0))
    assert stats.figures() == "0.05 h, 45× real time, 20 slices"
    stats.add(TrackResult("b", slices=3, duration_s=3600.0, reused=True))
    stats.add(TrackResult("c", reason="unreadable"))
    assert stats.figures() == "1.05 h, 18× real time, 23 slices, 1 rejected"


def test_no_speed_is_shown_if_nothing_was_decoded():
    clock = iter([0.0, 1.0])
    stats = RunStats(lambda: next(clock))
    stats.add(TrackResult("a", slices=1, duration_s=36.0, reused=True))
    assert stats.figures() == "0.01 h, 1 slices"


def test_long_tracks_show_how_far_they_are_until_they_are_done():
    clock = iter([0.0, 1.0, 2.0])
    stats = RunStats(lambda: next(clock))
    stats.note_share(3, 0.25)
    stats.note_share(5, 0.5)
    assert stats.figures().endswith("0 slices; long tracks at 25%, 50%")
    stats.add(TrackResult("a", slices=900, duration_s=7200.0), 3)
    assert stats.figures().endswith("900 slices; long tracks at 50%")
