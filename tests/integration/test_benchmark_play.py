import pytest

from benchmarks.play import run

pytestmark = [pytest.mark.browser, pytest.mark.real_time]


def test_the_player_s_benchmark_measures_first_sounds_the_page_changes_listeners_and_random_messages() -> None:
    rows = {row.what: row for row in run(quick=True)}
    assert sum(row.goal is not None for row in rows.values()) == 18
    first = rows["time to the first segment, against one segment"]
    assert len(first.ours) == len(first.reference) == 2 and all(value > 0 for value in first.ours)
    assert rows["the page at phone size, 2 s: underruns"].met
    assert rows["the page at phone size, 2 s: frames"].value > 5
    assert rows["random weights: changes every 3 s: changes heard"].value >= 1
    assert rows["of 5 listeners: received every segment in order"].met
    assert rows["random messages read, with the player still working"].met
