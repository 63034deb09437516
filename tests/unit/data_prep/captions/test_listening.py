import dataclasses
import json
from importlib import resources
from pathlib import Path

import pytest

from data_prep.captions.listening import CAPTION_TAGS, Heard, find_facts, heard_tags, listened_captions, load_thresholds
from data_prep.tracks.measuring import patch_times

HEARD = Heard(
    starts_s=(2.0, 12.0, 22.0, 32.0),
    scores={"piano": (0.9, 0.9, 0.9, 0.9), "drums": (0.0, 0.0, 0.9, 0.9), "slow": (0.3, 0.3, 0.3, 0.3)},
    slices=((0.0, 5.0), (10.0, 5.0), (30.0, 5.0)),
    bpm=92.3,
    bpm_strength=0.7,
    key="A minor",
    key_strength=0.9,
    lufs=-30.0,
    loudness="quiet",
    brightness_hz=700.0,
    brightness="dark",
)
THRESHOLDS = {"piano": 0.5, "drums": 0.25, "slow": 0.5, "bpm": 0.5}


def test_a_tag_is_named_where_its_score_reaches_its_threshold():
    facts = find_facts(HEARD, HEARD.scores_at(30.0, 5.0), THRESHOLDS)
    assert [tag.name for tag in facts.tags] == ["piano", "drums"]
    assert facts.bpm == 92.3 and facts.key is None, "there is no threshold for the key, so it is not named"
    assert [tag.name for tag in find_facts(HEARD, HEARD.scores_at(0.0, 5.0), THRESHOLDS).tags] == ["piano"]
    weak = dataclasses.replace(HEARD, bpm_strength=0.4)
    assert find_facts(weak, {}, THRESHOLDS).bpm is None


def test_of_opposites_the_clearest_is_named():
    thresholds = {"drums": 0.2, "no drums": 0.2}
    present = find_facts(HEARD, {"drums": 0.9, "beat": 0.9, "beats": 0.9}, thresholds)
    assert [tag.name for tag in present.tags] == ["drums"]
    assert [tag.name for tag in find_facts(HEARD, {"drums": 0.3}, thresholds).tags] == ["no drums"]


def test_slices_in_which_drums_enter_say_so_and_the_others_do_not():
    captions = listened_captions(HEARD, "0 hash", THRESHOLDS)
    words = [" ".join(own).lower() for own in captions.slices]
    assert ["drum" in text or "percussion" in text for text in words] == [False, False, True]
    assert captions.slices[0] == captions.slices[1], "equal slices share their captions"
    assert 2 <= len(captions.track) <= 3 and all("piano" in text for text in words)


def test_captions_depend_on_the_address_alone():
    assert listened_captions(HEARD, "0 hash", THRESHOLDS) == listened_captions(HEARD, "0 hash", THRESHOLDS)
    assert len({listened_captions(HEARD, f"{seed} hash", THRESHOLDS).track for seed in range(8)}) > 2


def test_a_track_without_a_clear_tag_is_described_by_what_is_measured():
    silent = dataclasses.replace(HEARD, scores={}, bpm=None)
    captions = listened_captions(silent, "0 hash", THRESHOLDS).track
    assert captions[-1] == "music, quiet, dark"
    assert heard_tags(silent, THRESHOLDS) == []


def test_scores_between_patches_change_gradually():
    middle = [HEARD.scores_at(start_s, 0.0)["drums"] for start_s in (3.5, 13.5, 18.5, 23.5, 33.5)]
    assert middle == sorted(middle) and middle[0] < 0.01 and middle[2] == pytest.approx(0.45) and middle[4] > 0.85
    assert HEARD.track_scores["drums"] == pytest.approx(0.45)
    assert HEARD.scores_at(1000.0, 5.0)["drums"] == pytest.approx(0.9), "far away, the nearest patch decides"


def test_what_was_heard_is_read_back_from_the_manifest():
    assert Heard.from_data(json.loads(json.dumps(HEARD.as_data()))) == HEARD


def test_patches_are_evenly_spread_and_bounded():
    assert patch_times(240.0, 8) == [13.5 + 30 * number for number in range(8)]
    assert patch_times(30.0, 8) == [1.5, 7.5, 13.5, 19.5, 25.5]
    assert patch_times(2.0, 8) == [0.0]


def test_every_tag_in_use_was_right_in_four_of_five_cases():
    rows = json.loads((resources.files("data_prep.captions") / "thresholds.json").read_text(encoding="utf-8"))["tags"]
    assert set(rows) <= {tag.name for tag in CAPTION_TAGS} | {"bpm", "key"} and set(load_thresholds()) == set(rows)
    assert len(rows) >= 4
    table = (Path(__file__).parents[4] / "docs" / "datasets.md").read_text(encoding="utf-8")
    for name, row in rows.items():
        assert row["precision"] >= 0.8 and 0 < row["threshold"] < 1, name
        shown = {"bpm": "tempo, within 4 %"}.get(name, name)
        precision, recall = (f"{row[key]:.2f}".removeprefix("0") for key in ("precision", "recall"))
        assert f"| {shown} | {precision} | {recall} | {row['named']} of {row['sounds']} |" in table
