import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.writers.formats import slice_name

CASES, A_TIME = 10_000, 20
SEEDS = st.lists(st.integers(0, 2**32), min_size=A_TIME, max_size=A_TIME)
PIECES = (
    *("../x", "CON", "a/b", "a-b", "A b", "日本", "é", "e\u0301", "." * 9, "/", "\\", " ", "\n", "\0", "🎹", "a" * 60),
    *map(chr, range(33, 127)),
)


def drawn_track(seed):
    """A track's name of odd pieces, and where a slice begins, in microseconds."""
    draw = random.Random(seed)
    return "".join(draw.choices(PIECES, k=draw.randrange(8))), draw.randrange(10 ** draw.randrange(1, 11))


def test_a_name_shows_the_track_and_the_start():
    assert re.fullmatch(r"albums-blue-sun-[0-9a-f]{10}-00005108700", slice_name("albums/Blue Sün", 5.1087))
    assert slice_name("a/b", 0.0) != slice_name("a-b", 0.0)
    first, second = 44100 / 44100, 44101 / 44100  # two random crops may begin at neighbouring samples
    assert slice_name("a", first) != slice_name("a", second)


@settings(max_examples=CASES // A_TIME, deadline=None)
@given(SEEDS)
def test_every_name_is_good_on_every_file_system_and_no_two_slices_share_one(cases):
    names = {}
    for track_id, start_us in map(drawn_track, cases):
        name = slice_name(track_id, start_us / 1e6)
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and len(name) + len(".json") <= 100
        assert name.endswith(f"-{start_us:011d}")
        assert names.setdefault(name, (track_id, start_us)) == (track_id, start_us)
