"""What the judge says of the demo's clips, from its `scores.json` and from slices that went through the VAE."""

import json
from pathlib import Path

import pytest
from support.nano import write_dataset
from support.sampling import write_nano_model

from riffusion_train.dataset.spectrograms import load_dataset
from riffusion_train.demo.judged import COPIES, KID, WORDS, judge_demo
from riffusion_train.demo.steps import DemoFolder

KID_ROW = {"what": "kid", "unit": "u", "ours": 0.3, "ours_min": 0.2, "ours_max": 0.4, "reference": 0.01, "note": ""}
COPIES_ROW = {**KID_ROW, "what": "copies", "ours": 0.0, "ours_min": 0.0, "ours_max": 0.1}
WORDS_ROW = {**KID_ROW, "what": "agreement", "ours": 0.8, "ours_min": 0.7, "ours_max": 0.9, "reference": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> DemoFolder:
    path = tmp_path_factory.mktemp("demo")
    folder = DemoFolder(path, None)
    write_dataset(folder.dataset, 18, 17)
    write_nano_model(folder.model)
    folder.scores.mkdir()
    return folder


def judged(folder: DemoFolder, *rows: dict[str, object]):
    (folder.scores / "scores.json").write_text(json.dumps({"rows": rows}))
    return judge_demo(folder, load_dataset(folder.dataset, "validation"), load_dataset(folder.dataset))


def test_kid_stands_beside_that_of_slices_through_the_vae_and_is_heard_once(folder: DemoFolder) -> None:
    found = judged(folder, KID_ROW, COPIES_ROW, WORDS_ROW)
    kid, copies = found.rows
    assert (kid.what, kid.ours, kid.ours_min, kid.ours_max, kid.reference) == (KID, 0.3, 0.2, 0.4, 0.01)
    assert (copies.what, copies.ours, copies.ceiling) == (COPIES, 0.0, None)
    assert kid.ceiling is not None and kid.ceiling > 0.01  # a VAE of random weights leaves nothing of the music
    heard = {path: path.stat().st_mtime_ns for path in Path(folder.dataset, ".cache").iterdir()}
    assert judged(folder, KID_ROW, COPIES_ROW, WORDS_ROW).rows == found.rows
    (words,) = found.words
    assert (words.what, words.ours, words.reference, words.before) == (WORDS, 0.8, 0.5, None)
    assert {path: path.stat().st_mtime_ns for path in Path(folder.dataset, ".cache").iterdir()} == heard


def test_what_was_not_measured_is_left_out_with_its_reason(folder: DemoFolder) -> None:
    few = {**KID_ROW, "ours": None, "note": "KID needs at least 16 clips, not 4"}
    found = judged(folder, few, {**COPIES_ROW, "ours": None, "note": "needs 50 slices"}, {**WORDS_ROW, "ours": None})
    assert (
        not found.rows
        and not found.words
        and list(found.notes) == ["KID needs at least 16 clips, not 4", "needs 50 slices"]
    )


def test_the_figures_of_the_base_model_stand_before_those_of_the_fine_tuned_one(folder: DemoFolder) -> None:
    folder.scores_before.mkdir()
    old = [{**KID_ROW, "ours": 0.5}, {**COPIES_ROW, "ours": None}, {**WORDS_ROW, "ours": 0.6}]
    (folder.scores_before / "scores.json").write_text(json.dumps({"rows": old}))
    found = judged(folder, KID_ROW, COPIES_ROW, WORDS_ROW)
    assert [row.before for row in (*found.rows, *found.words)] == [0.5, None, 0.6]
