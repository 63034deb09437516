import re

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources import _with_track_ids
from data_prep.tracks import Track
from data_prep.writers.names import slice_name

CASES, A_TIME = 10_000, 20
WORDS = st.one_of(
    st.text(max_size=30), st.sampled_from(["../x", "CON", "a/b", "a-b", "A b", "日本", "é", "e\u0301", "." * 9])
)
PATHS = st.lists(WORDS, min_size=1, max_size=3).map("/".join)
TRACKS = st.lists(st.tuples(PATHS, st.integers(0, 90_000_000)), min_size=A_TIME, max_size=A_TIME)


def test_a_name_tells_the_track_and_the_start():
    assert re.fullmatch(r"albums-blue-sun-[0-9a-f]{10}-00005109", slice_name("albums/Blue Sün", 5.1087))
    assert slice_name("a/b", 0.0) != slice_name("a-b", 0.0)


@settings(max_examples=CASES // A_TIME, deadline=None)
@given(TRACKS)
def test_every_name_is_good_on_every_file_system_and_no_two_slices_share_one(cases):
    names = {}
    for track_id, start_ms in cases:
        name = slice_name(track_id, start_ms / 1000)
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and len(name) + len(".json") <= 100
        assert name.endswith(f"-{start_ms:08d}") and not name.startswith(("con-0", "nul-0"))
        assert names.setdefault(name, (track_id, start_ms)) == (track_id, start_ms)


FILES = st.lists(
    st.tuples(st.sampled_from(["a", "b", "a.b", "A", "ä"]), st.sampled_from(["", ".wav", ".mp3", ".b", ".b.wav"])),
    unique=True,
    max_size=12,
)


@settings(max_examples=CASES // A_TIME, deadline=None)
@given(st.lists(FILES, min_size=A_TIME, max_size=A_TIME))
def test_no_two_files_get_one_track_id(cases):
    for files in cases:
        sources = sorted({stem + suffix for stem, suffix in files})
        tracks = _with_track_ids([Track(source, source, source) for source in sources])
        assert [track.source for track in tracks] == sources
        assert len({track.track_id for track in tracks}) == len(tracks)
