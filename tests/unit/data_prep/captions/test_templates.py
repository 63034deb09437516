import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.captions.text import CaptionTemplate, PathTemplate
from riffusion_train.runtime.errors import InputError

FIELDS = {"genre": "dub", "instrument": "organ", "bpm": 91.96, "key": "A minor", "live": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{genre} {instrument}, {bpm:.0f} bpm, in {key}", "dub organ, 92 bpm, in A minor"),
        ("{genre} {live}, {live} take, in {key}", "dub, in A minor"),
        ('{live|genre} music, {live|"studio"} recording', "dub music, studio recording"),
        ("music, {live} take", None),
        ("just music", "just music"),
        ("{genre:.0f}", "dub"),
    ],
)
def test_a_caption_is_composed_of_what_is_known(text, expected):
    assert CaptionTemplate(text).fill(FIELDS) == expected


@pytest.mark.parametrize("text", ["{genre", "{a b}", "{}", "{genre|}"])
def test_a_template_that_cannot_be_parsed_is_refused_in_one_line(text):
    with pytest.raises(InputError, match="caption_template="):
        CaptionTemplate(text)


def test_a_field_that_no_track_can_have_is_named():
    with pytest.raises(InputError, match="no column or field 'gener'; there are bpm, genre"):
        CaptionTemplate("{gener}").check(["genre", "bpm"])
    with pytest.raises(InputError, match="no column or field 'style'; there are none"):
        CaptionTemplate("{style|mood}").check([])


def test_a_field_that_no_track_can_have_may_be_left_to_its_alternatives():
    template = CaptionTemplate('{genre|style} {instrument|"music"}, {bpm:.0f} bpm')
    assert template.check(["genre", "bpm"]) == ["style", "instrument"]
    assert template.check(["style", "bpm", "instrument"]) == ["genre"]


def test_a_path_gives_its_fields():
    template = PathTemplate("{genre}/{artist} - {title}")
    assert template.read("music/deep_house/Ann - One - Two.mp3") == {
        "genre": "deep house",
        "artist": "Ann",
        "title": "One - Two",
    }
    assert template.read("dub/nothing.mp3") is None
    assert PathTemplate("{} {title}").read("a/01 Rain.wav") == {"title": "Rain"}


@pytest.mark.parametrize("text", ["plain", "{a}/{a}"])
def test_a_path_template_needs_fields_each_once(text):
    with pytest.raises(InputError, match="path_template="):
        PathTemplate(text)


CASES, A_TIME = 10_000, 20
VALUES = st.sampled_from([None, "", "dub", "deep house", "äß", "1", 0, -3, 2.5, 1e9])
PIECES = st.text(st.sampled_from("aB ä1.-"), min_size=1, max_size=9).map(lambda text: " ".join(text.split()).strip("."))


@settings(max_examples=CASES // A_TIME, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES, VALUES, VALUES), min_size=A_TIME, max_size=A_TIME))
def test_no_caption_has_a_hole(cases):
    template = CaptionTemplate("{a} and {b|c}, in {c}, {d:.1f} bpm")
    for values in cases:
        fields = dict(zip("abcd", values, strict=True))
        caption = template.fill(fields)
        known = [name for name, value in fields.items() if value not in (None, "")]
        assert (caption is None) == (not known)
        if caption:
            assert ", ," not in caption and caption == " ".join(caption.split()) and not caption.startswith(",")
            assert ("bpm" in caption) == ("d" in known) and ("in " in caption) == ("c" in known)


@settings(max_examples=CASES // A_TIME, deadline=None)
@given(st.lists(st.tuples(PIECES, PIECES), min_size=A_TIME, max_size=A_TIME))
def test_what_a_path_is_built_of_is_read_back(cases):
    template = PathTemplate("{genre}/{title}")
    for genre, title in ((genre or "x", title or "y") for genre, title in cases):
        assert template.read(f"{genre}/{title}.wav") == {"genre": genre.strip(), "title": title.strip()}
