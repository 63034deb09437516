"""Scores of clips on the audition page, from a `scores.json` beside them."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.auditions import make_site, write_clip, write_scores_beside

from riffusion_train.audition.site import METRICS, Site, nearest_text, write_site


@pytest.fixture
def scored(tmp_path: Path) -> Site:
    site = make_site(tmp_path)
    write_scores_beside(tmp_path, site)
    return site


def data(folder: Path) -> Any:
    return json.loads((folder / "site.json").read_text(encoding="utf-8"))


def test_every_score_becomes_a_metric_and_the_copy_check_a_flag(tmp_path: Path, scored: Site) -> None:
    write_site(tmp_path, scored)
    found = data(tmp_path)
    names = [metric["name"] for metric in found["metrics"]][len(METRICS) :]
    assert names[:3] == ["caption_match", "realness", "copy_similarity"]
    assert {"silent_share", "bandwidth_hz", "dc_offset"} <= set(names) and "tempo_bpm" not in names
    first, last = found["cells"][1], found["cells"][-1]
    assert first["metrics"]["caption_match"] == pytest.approx(100 * 11 / 12, abs=0.01)
    assert first["metrics"]["bandwidth_hz"] < 8.1  # in kHz
    assert (first["is_copy"], found["cells"][2]["is_copy"], first["key"]) == (True, False, "A minor")
    assert "0.7 s later, 1 semitone down" in first["nearest"]
    assert "is_copy" not in last and "realness" not in last["metrics"]


def test_scores_that_are_gone_leave_the_page_and_measures_stay(tmp_path: Path, scored: Site) -> None:
    write_site(tmp_path, scored)
    before = data(tmp_path)["cells"][0]["metrics"]
    (tmp_path / "scores.json").write_text("{", encoding="utf-8")
    write_site(tmp_path, scored)
    found = data(tmp_path)
    assert [metric["name"] for metric in found["metrics"]] == [metric.name for metric in METRICS]
    assert found["cells"][0]["metrics"] == {name: before[name] for name in found["cells"][0]["metrics"]}
    assert "loudness_lufs" in found["cells"][0]["metrics"] and "is_copy" not in found["cells"][0]


def test_a_clip_that_was_replaced_loses_its_old_scores(tmp_path: Path, scored: Site) -> None:
    write_clip(tmp_path, scored.cells[0].stem, level_db=-30.0)
    write_site(tmp_path, scored)
    cells = data(tmp_path)["cells"]
    assert "caption_match" not in cells[0]["metrics"] and "caption_match" in cells[1]["metrics"]


def test_the_nearest_slice_is_said_in_words() -> None:
    nearest = {"track": "jazz/a.wav", "similarity": 0.934, "shift_s": -0.04, "transposition": 0}
    assert nearest_text(nearest) == "93 % similar to a slice of a.wav"
    assert nearest_text({**nearest, "shift_s": -1.5, "transposition": 2}).endswith(", 1.5 s earlier, 2 semitones up")
