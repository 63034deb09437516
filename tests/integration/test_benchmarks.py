import dataclasses
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import caption_checks, caption_drums, captions, judge_figures
from benchmarks.__main__ import main
from benchmarks.codec_table import CODEC_RESULTS, fill
from benchmarks.judge_figures import Measured
from benchmarks.report import Goal, Row
from data_prep.captions.listening import Heard
from data_prep.corpus.exercises import attributes_of
from riffusion_train.demo.judged import ATTRIBUTES
from riffusion_train.listening.attributes import TEMPI_BPM, Evidence

ROOT = Path(__file__).parents[2]
ROW_KEYS = {
    "what", "unit", "ours", "ours_min", "ours_max", "reference", "reference_min", "reference_max", "ratio", "target", "met",
}  # fmt: skip


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("results")
    assert main(["codec", "--quick", f"out={out}"]) == 0
    return json.loads((out / "codec.json").read_text())


def test_the_codec_benchmark_writes_command_versions_and_rows(quick: dict[str, Any]):
    assert set(quick) == {"command", "git", "machine", "versions", "rows"}
    assert quick["command"] == "python -m benchmarks codec --quick"
    assert {"torch", "torchaudio", "riffusion-train"} <= set(quick["versions"])
    for row in quick["rows"]:
        assert set(row) == ROW_KEYS
        assert row["ours_min"] <= row["ours"] <= row["ours_max"], row
        if row["reference"] is not None:
            assert row["reference_min"] <= row["reference"] <= row["reference_max"], row
    names = [row["what"] for row in quick["rows"]]
    assert len(names) == len(set(names))


def test_the_codec_benchmark_ranks_the_codecs(quick: dict[str, Any]):
    rows = {row["what"]: row for row in quick["rows"]}
    assert rows["riffusion_v1 pixels equal to the original's"]["ours"] > 0.9995
    assert rows["riffusion_v1 normal log-mel error 0-10 kHz"]["ratio"] < 0.8
    assert rows["hifi normal log-mel error 0-16 kHz"]["ratio"] < 0.3
    assert rows["hifi_stereo inter-channel coherence error, against separate channels"]["ratio"] < 0.7
    assert (
        rows["hifi normal after noise of 4/255: log-mel error 0-16 kHz"]["ours"]
        > rows["hifi normal log-mel error 0-16 kHz"]["ours"]
    )


def test_every_target_is_a_row(quick: dict[str, Any]):
    rows = {row["what"]: row for row in quick["rows"]}
    targets = {what: row["target"] for what, row in rows.items() if row["target"] and " px wide" not in what}
    assert targets == {
        "riffusion_v1 encode": "reference / ours >= 1.3",
        "hifi encode": "reference / ours >= 4",
        "riffusion_v1 pixels equal to the original's": "ours >= 0.9995",
        "riffusion_v1 largest pixel difference": "ours <= 1",
        "riffusion_v1 normal decode": "reference / ours >= 7",
        "riffusion_v1 normal decode, against Griffin-Lim alone": "reference / ours >= 7",
        "riffusion_v1 normal log-mel error 0-10 kHz": "ours / reference <= 0.5",
        "hifi normal decode": "reference / ours >= 12",
        "hifi normal log-mel error 0-16 kHz": "ours <= 0.35",
        "hifi normal spectral convergence, music only": "ours <= 0.075",
        "hifi best spectral convergence, music only": "ours <= 0.05",
        "hifi normal after noise of 4/255: log-mel error 0-16 kHz": "ours <= 0.8",
        "riffusion_v1 draft real-time factor of decode": "ours <= 0.06",
        "riffusion_v1 normal real-time factor of decode": "ours <= 0.15",
        "hifi draft real-time factor of decode": "ours <= 0.06",
        "hifi normal real-time factor of decode": "ours <= 0.15",
        "hifi_stereo inter-channel coherence error, against separate channels": "ours <= 0.05",
    }


def test_the_preparation_benchmark_has_a_row_for_each_peer_and_each_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["prepare", "--quick", f"out={tmp_path}"]) == 0
    assert f"wrote {tmp_path / 'prepare.json'}" in capsys.readouterr().out
    rows = {row["what"]: row for row in json.loads((tmp_path / "prepare.json").read_text())["rows"]}
    assert {what: row["target"] for what, row in rows.items() if row["target"] and "two workers" not in what} == {
        "hifi preparation, against the original's": "ours / reference >= 3.5",
        "riffusion_v1 preparation, against the original's": "ours / reference >= 1.8",
        **{
            f"preparation of {kind} with teticio's parameters, against teticio's": "ours / reference >= 2"
            for kind in ("wav", "mp3", "ogg")
        },
    }
    assert rows["hifi preparation, against the original's"]["ratio"] > 1.5
    for preset in ("hifi", "riffusion_v1"):
        shares = {what: row["ours"] for what, row in rows.items() if what.startswith(f"{preset}: ")}
        assert len(shares) == 9 and sum(shares.values()) == pytest.approx(1, abs=0.01)
    assert any(what.startswith("two workers over one") for what in rows)


def test_every_table_of_the_page_is_filled_from_results(quick: dict[str, Any]):
    page = (ROOT / "docs" / "codec.md").read_text(encoding="utf-8")
    filled = fill(fill(page, None), quick)
    tables = re.findall(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", filled, re.DOTALL)
    assert [name for name, _ in tables] == ["sound", "damage", "targets", "machine", "width", "stereo", "inverters"]
    assert all(len(table.splitlines()) >= (1 if name == "machine" else 4) for name, table in tables)
    assert fill(filled, quick) == filled


def test_the_page_contains_the_committed_results():
    page = (ROOT / "docs" / "codec.md").read_text(encoding="utf-8")
    assert fill(page, json.loads(CODEC_RESULTS.read_text()) if CODEC_RESULTS.is_file() else None) == page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["codecs"], "unknown benchmark 'codecs'; choose from: codec"),
        (["codec", "--quick"], "name a folder with out=DIR"),
        (["codec", "quick"], "'quick': give one NAME, --quick, clips=N or out=DIR"),
    ],
)
def test_invalid_arguments_give_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str):
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("goal", "limit", "met"),
    [
        (Goal.ours_at_most, 2.0, True), (Goal.ours_at_most, 1.9, False),
        (Goal.ours_at_least, 2.0, True), (Goal.ours_at_least, 2.1, False),
        (Goal.ratio_at_most, 0.25, True), (Goal.ratio_at_most, 0.2, False),
        (Goal.speedup_at_least, 4.0, True), (Goal.speedup_at_least, 5.0, False),
        (Goal.difference_at_most, 6.0, True), (Goal.difference_at_most, 5.9, False),
    ],
)  # fmt: skip
def test_a_goal_is_met_or_missed_by_the_median_or_mean(goal: Goal, limit: float, met: bool):
    assert Row("it", "s", [1.0, 3.0], [4.0, 12.0], goal, limit).met is met


def test_times_are_compared_repeat_by_repeat():
    row = Row("it", "s", [1.0, 2.0, 30.0], [2.0, 8.0, 90.0], median=True)
    assert (row.value, row.reference_value, row.ratio) == (2.0, 8.0, pytest.approx(1 / 3))


def test_the_listening_benchmark_measures_speed_and_tags(tmp_path: Path):
    assert main(["listening", "--quick", f"out={tmp_path}"]) == 0
    rows = json.loads((tmp_path / "listening.json").read_text())["rows"]
    assert [row["target"] for row in rows[:2]] == ["ours >= 25"] * 2
    assert all(row["ours"] > 0 for row in rows)


def test_the_captions_benchmark_asks_for_unseen_combinations_and_as_many_seen_ones_evenly():
    unseen, seen = (captions.prompts_of(unseen=one, count=54) for one in (True, False))
    assert all(captions.is_unseen(one) for one in unseen) and not any(captions.is_unseen(one) for one in seen)
    assert sum(captions.is_unseen(attributes_of(0, clip)) for clip in range(486)) == 486 // 3
    for asked in (unseen, seen):
        for name in (*ATTRIBUTES, "pattern"):
            counts = Counter(getattr(one, name) for one in asked)
            assert len(set(counts.values())) == 1, counts


def test_the_captions_benchmark_compares_agreement_with_shuffled_prompts():
    asked = captions.prompts_of(unseen=True, count=54)
    right = {name: [getattr(one, name) for one in asked] for name in ATTRIBUTES}
    constant = {name: [values[0]] * len(values) for name, values in right.items()}
    rows = {row.what: row for row in captions._rows("unseen", asked, [right], [constant])}
    assert rows["unseen: mean of the four"].value == 1
    assert rows["unseen: instrument"].reference_value == pytest.approx(1 / 6)
    assert rows["unseen, shuffled prompts: drums"].value == pytest.approx(1 / 3, abs=0.03)
    assert rows["unseen, shuffled prompts: drums"].reference_value == pytest.approx(1 / 3)


def test_false_statements_of_the_caption_checks_are_false():
    rng = random.Random(0)
    for bpm in (60, 97, 128, 175):
        for _ in range(50):
            false_bpm = caption_checks._false_bpm(bpm, rng)
            assert all(not 0.93 < false_bpm / (bpm * factor) < 1.07 for factor in (0.5, 1, 2))
    assert {caption_checks._false_key("C major", rng) for _ in range(500)}.isdisjoint({"C major", "A minor"})


def test_the_caption_checks_count_verdicts():
    pulse = tuple(100 * any(abs(one / bpm - 1) < 0.03 for bpm in (60, 120)) for one in TEMPI_BPM)
    heard = Heard((0.0,), {}, evidence=Evidence(pulse=pulse))
    clip = caption_checks.Clip(120.0, None, (), "medium", frozenset(), frozenset(), ["90 bpm", "120 bpm"], heard)
    rows = {row.what: row.value for row in caption_checks.rows_of("clicks", [clip] * 40)}
    assert rows["clicks: tempo: recall"] == rows["clicks: tempo: precision"] == 1.0
    assert rows["clicks: tempo: statements"] == 40 and rows["clicks: own captions called false"] == 0.5


def test_the_drum_judge_is_fitted_to_what_tells_drums_and_its_limits_to_precision():
    rng = np.random.default_rng(0)
    sounds = [
        caption_drums.Sound("music", index % 3, (float(2 * drums + noise), float(rng.normal())), drums)
        for index, (drums, noise) in enumerate(zip(rng.random(300) < 0.6, rng.normal(0, 0.6, 300), strict=True))
    ]
    bias, weights = caption_drums.fit(sounds)
    assert weights[0] > 5 * abs(weights[1]) and -bias / weights[0] == pytest.approx(1, abs=0.3)
    known, drums = caption_drums._of_kind(sounds, caption_drums.cross_validated(sounds), "music")
    precision, recall = caption_drums.expected(known, drums, *caption_drums.best_limits(known, drums))
    assert precision >= 0.93 and recall > 0.8
    assert caption_drums.expected(np.ones(10), np.arange(10) < 8, 0.2, 0.9) == pytest.approx((0.24 / 0.38, 0.8))


def checkpoint(seed: int, step: int, right: float, kid: float, loss: float, agreement: float | None = None) -> Measured:
    return Measured(seed, step, loss, kid, agreement, 0.01 * step, {"drums": right, "tempo": right}, step == 2)


RUNS = [
    [checkpoint(0, 1, 0.4, 3.0, 0.3), checkpoint(0, 2, 0.6, 2.0, 0.2), checkpoint(0, 3, 0.7, 1.0, 0.4)],
    [checkpoint(1, 1, 0.5, 3.5, 0.1), checkpoint(1, 2, 0.8, 1.5, 0.2), checkpoint(1, 3, 0.65, 2.5, 0.3)],
]


def test_the_judge_benchmark_ranks_monitors_by_the_checkpoints_that_they_would_choose():
    rows = {row.what: row for row in judge_figures.figure_rows(RUNS, checkpoint(0, 3, 0.1, 9.0, 0.0))}
    assert rows["KID and the classifier, checkpoints of one run"].ours == [1, 1]
    assert rows["KID and the classifier, checkpoints of all runs"].value == pytest.approx(1 - 6 * 6 / 210)
    assert rows["held-out loss and the classifier, checkpoints of one run"].ours == [-0.5, -0.5]
    assert not any(what.startswith("agreement and") for what in rows)  # it could not be measured
    assert rows["regret of the choice by KID, against one by lot"].ours == [0, 0]
    by_loss = rows["regret of the choice by held-out loss, against one by lot"]
    assert by_loss.ours == pytest.approx([0.1, 0.3])
    assert by_loss.reference == pytest.approx([0.4 / 3, 0.45 / 3])
    assert rows["regret of the choice by rule of evaluate run, against one by lot"].ours == pytest.approx([0.1, 0])
    assert rows["step 2: KID"].ours == [2.0, 1.5]


def test_the_judge_benchmark_draws_every_figure_that_was_measured(tmp_path: Path):
    three = Image.open(judge_figures.draw(RUNS, tmp_path)).size
    known = [[dataclasses.replace(one, agreement=one.right) for one in run] for run in RUNS]
    four = Image.open(judge_figures.draw(known, tmp_path)).size
    assert three == four and four[0] > four[1]


def test_the_judge_benchmark_refuses_a_scale_that_is_none(capsys: pytest.CaptureFixture[str]):
    assert main(["judge", "scale=2"]) == 2
    assert capsys.readouterr().err == "benchmarks: scale=2: give a number above 0, up to 1\n"
    assert main(["listening", "scale=0.5"]) == 2
