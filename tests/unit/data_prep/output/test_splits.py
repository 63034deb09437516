import random
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.output.selection import SplitMember, assign_splits

members_of_random_corpora = st.lists(
    st.tuples(st.integers(0, 15), st.sampled_from([None, "Ann", "ann", "Bob", "Cy", "Di"]), st.integers(0, 30)),
    min_size=1,
    max_size=60,
).map(
    lambda rows: [
        SplitMember(f"t{i}", f"c{content}", artist, alike=(f"~like {like}",) if like < 12 else ())
        for i, (content, artist, like) in enumerate(rows)
    ]
)


def numbered(count, start=0):
    return [SplitMember(f"track-{i}", f"content-{i}") for i in range(start, start + count)]


@settings(max_examples=200, deadline=None)
@given(members_of_random_corpora, st.integers(0, 9), st.floats(0, 0.5), st.floats(0, 0.4))
def test_no_artist_no_copy_of_a_file_and_nothing_alike_is_in_two_splits(members, seed, validation, test):
    split_of = assign_splits(members, seed, validation, test)
    assert set(split_of) == {member.track_id for member in members}
    seen = defaultdict(set)
    for member in members:
        seen["content", member.content].add(split_of[member.track_id])
        for key in member.alike:
            seen["alike", key].add(split_of[member.track_id])
        if member.artist:
            seen["artist", member.artist.lower()].add(split_of[member.track_id])
    assert all(len(splits) == 1 for splits in seen.values())
    assert "train" in split_of.values()


CASES, A_TIME = 10_000, 20
CORPORA = st.lists(
    st.tuples(st.integers(0, 2**32), st.integers(1, 16), st.floats(0, 0.5), st.floats(0, 0.4)),
    min_size=A_TIME,
    max_size=A_TIME,
)


def drawn_members(seed, count):
    """Tracks that share artists, files and sounds at random, a few of them in chains."""
    draw = random.Random(seed)
    width = draw.choice([2, 5, 10, 90])
    return [
        SplitMember(
            *(f"t{index}", f"c{draw.randrange(width)}", draw.choice([None, f"a{draw.randrange(width)}"])),
            alike=tuple(f"~like {draw.randrange(width)}" for _ in range(draw.choice([0, 0, 1, 2]))),
        )
        for index in range(count)
    ]


@settings(max_examples=CASES // A_TIME, deadline=None)
@given(CORPORA)
def test_no_group_is_ever_in_two_splits(cases):
    for seed, count, validation, test in cases:
        members = drawn_members(seed, count)
        split_of = assign_splits(members, seed, validation, test)
        splits = defaultdict(set)
        for member in members:
            for key in (f"content {member.content}", member.artist and f"artist {member.artist}", *member.alike):
                splits[key].add(split_of[member.track_id])
        splits.pop(None, None)
        assert all(len(assigned) == 1 for assigned in splits.values())
    assert assign_splits(members[::-1], seed, validation, test) == split_of  # whatever the order of the files


@given(st.integers(2, 8), st.integers(0, 99), st.floats(0.001, 0.9))
def test_two_groups_are_enough_for_a_validation_split(count, seed, ratio):
    splits = set(assign_splits(numbered(count), seed, ratio).values())
    assert splits == {"train", "validation"}


def test_one_track_alone_is_trained_on():
    assert assign_splits(numbered(1), 0, 0.9) == {"track-0": "train"}


def test_ratios_hold_on_a_large_corpus():
    values = list(assign_splits(numbered(5000), 3, 0.1, 0.05).values())
    assert 0.08 < values.count("validation") / 5000 < 0.12
    assert 0.035 < values.count("test") / 5000 < 0.065


def test_more_tracks_move_no_other():
    before = assign_splits(numbered(300), 1, 0.1)
    after = assign_splits(numbered(200, 300) + numbered(300), 1, 0.1)
    assert before == {track: after[track] for track in before}


def test_the_table_is_followed_and_pulls_the_rest_of_the_group_along():
    members = [
        SplitMember("a", "1", "Ann", "test"),
        SplitMember("b", "2", "Ann"),
        SplitMember("c", "3", "Bob", "train"),
        SplitMember("d", "4", "Bob", "validation"),
    ]
    assert assign_splits(members, 0, 0.05) == {"a": "test", "b": "test", "c": "train", "d": "validation"}
