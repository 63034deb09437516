import json
from pathlib import Path

from riffusion_train.evaluation.checkpoints import CheckpointScores, choose, read_scores
from riffusion_train.evaluation.results import ResultRow


def scores(
    step: int,
    kid: float,
    agreement: tuple[float, float, float] | None = None,
    copies: tuple[float, float] | None = None,
    checkpoint: str = "",
) -> CheckpointScores:
    """Return the scores of a checkpoint: agreement with its interval, copies with the lower end of theirs."""
    rows = [ResultRow("kid", "", kid, kid - 0.01, kid + 0.01, 0.0)]
    if agreement is not None:
        rows.append(ResultRow("agreement", "", *agreement, 0.5))
    if copies is not None:
        rows.append(ResultRow("copies", "", copies[0], copies[1], 1.0, 0.01))
    return CheckpointScores(
        checkpoint or str(step), step, "ema", f"weights {step}", "settings", rows, [{"file": "a.wav"}], 0.1
    )


def test_the_lowest_kid_is_the_best_where_nothing_else_is_known() -> None:
    choice = choose([scores(100, 0.3), scores(200, 0.1), scores(300, 0.2)])
    assert choice.scores.step == 200
    assert choice.reason == "step 200 has the lowest KID, 0.1, of 3 checkpoints"


def test_a_checkpoint_that_follows_its_captions_less_well_is_not_the_best() -> None:
    clear, close = scores(100, 0.1, (0.6, 0.55, 0.65)), scores(200, 0.2, (0.75, 0.7, 0.82))
    choice = choose([clear, close, scores(300, 0.3, (0.8, 0.75, 0.85))])
    assert choice.scores is close
    assert "agreement 0.75, the highest is 0.80" in choice.reason
    assert "step 100 has a lower KID, 0.1, and follows its captions less well" in choice.reason


def test_a_checkpoint_that_copies_more_than_expected_is_not_the_best() -> None:
    copying, original = scores(300, 0.1, copies=(0.2, 0.13)), scores(200, 0.2, copies=(0.02, 0.005))
    choice = choose([original, copying])
    assert choice.scores is original
    assert "that do not copy more than real music does; copies 2%, 1% are expected" in choice.reason
    assert "step 300 has a lower KID, 0.1, and copies more" in choice.reason


def test_where_every_checkpoint_copies_those_that_copy_least_are_compared() -> None:
    few = scores(200, 0.2, copies=(0.1, 0.05))
    choice = choose([few, scores(300, 0.1, copies=(0.4, 0.3))])
    assert choice.scores is few
    assert "of 1 checkpoint that copy least" in choice.reason


def test_scores_are_read_as_they_were_written_and_damaged_files_are_not(tmp_path: Path) -> None:
    written = [
        scores(100, 0.3, copies=(0.5, 0.25)),
        scores(200, 0.25),
        scores(200, 0.25, checkpoint="final"),
    ]
    for one in reversed(written):
        one.write(tmp_path, "riffusion evaluate run")
    (tmp_path / "step-000300.json").write_text("{")
    choose(written).write(tmp_path)
    assert list(read_scores(tmp_path)) == written
    assert json.loads((tmp_path / "best.json").read_text())["checkpoint"] == "200"
