import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.nano import train_config, write_dataset

from riffusion_train.cli.main import main
from riffusion_train.config.model import ExportWeights
from riffusion_train.config.sample import RunConfig
from riffusion_train.evaluation.checkpoints import CheckpointScores
from riffusion_train.evaluation.grid import GridModel
from riffusion_train.evaluation.results import ResultRow
from riffusion_train.evaluation.run import RunScoring
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT, StoppedError
from riffusion_train.training.run import run_training
from riffusion_train.training.run_model import open_run_model

QUICK = ["num_clips=16", "num_inference_steps=1", "quality=draft", "real_quality=draft", "device=cpu", "num_prompts=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints, whose held-out loss was measured at the second."""
    folder = tmp_path_factory.mktemp("trained")
    captions = ["a low band" if (5 * number) % 28 < 14 else "a high band" for number in range(50)]
    dataset = write_dataset(folder / "dataset", 50, 50, captions=captions)
    words = ["max_train_steps=4", "checkpointing_steps=2", "checkpoints_total_limit=9", "validation.every_steps=4"]
    return run_training(train_config(dataset, folder / "run", *words, "optimizer.lr=1e-2"), [])


@pytest.fixture(scope="module")
def scored(trained: Path) -> Path:
    """The same run, scored."""
    run = shutil.copytree(trained, trained.parent / "scored")
    assert main(["evaluate", "run", str(run), *QUICK]) == EXIT_DONE
    return run


def read(run: Path, name: str) -> Any:
    return json.loads((run / "scores" / name).read_text())


def test_every_checkpoint_is_scored_from_the_same_prompts_and_noise(scored: Path) -> None:
    files = [read(scored, f"step-{step:06d}.json") for step in (2, 4)]
    assert not (scored / "scores" / "final.json").exists()  # it is the same model as the last checkpoint
    clips = [[(clip["captions"], re.search(r"seed\d+", clip["file"])[0]) for clip in one["clips"]] for one in files]
    assert clips[0] == clips[1]
    assert len(clips[0]) == 16
    for one in files:
        values = {row["what"]: row["ours"] for row in one["rows"]}
        assert values["kid"] is not None
        assert values["agreement"] is not None
        assert 0 <= values["copies"] <= 1
        assert values["fad_infinity"] is None  # 16 clips are too few for it
    assert files[0]["fingerprint"] != files[1]["fingerprint"]


def test_the_held_out_loss_is_the_runs_own_or_the_same_measured_now(scored: Path) -> None:
    lines = [json.loads(line) for line in (scored / "metrics.jsonl").read_text().splitlines()]
    (measured,) = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert read(scored, "step-000004.json")["loss"] == measured
    assert read(scored, "step-000002.json")["loss"] != measured


def test_a_loss_that_the_run_did_not_measure_is_what_it_would_have_measured(trained: Path, scored: Path) -> None:
    config = RunConfig(device="cpu", num_clips=16)
    scoring = RunScoring(str(scored), config)
    (model,) = [one for one in scoring._models if one.step == 4]
    expected = scoring._loss("4", model)
    scoring._measured.clear()  # type: ignore[attr-defined]
    assert scoring._loss("4", model) == pytest.approx(expected, rel=1e-5)


def test_nothing_is_scored_twice(
    scored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((scored / "scores").glob("step-*.json"))
    before = [file.read_bytes() for file in files]
    monkeypatch.setattr(RunScoring, "_score", lambda self, model: pytest.fail(f"{model.name} again"))
    assert main(["evaluate", "run", str(scored), *QUICK]) == EXIT_DONE
    assert "scored: 0 checkpoints, 2 before" in capsys.readouterr().out
    assert [file.read_bytes() for file in files] == before


def test_the_best_is_named_with_the_reason_and_can_be_exported(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = read(scored, "best.json")
    assert best["reason"].startswith(f"step {best['step']} has the lowest KID, ")
    assert main(["export", f"run={scored}", f"out={tmp_path / 'model'}", "checkpoint=judged"]) == EXIT_DONE
    assert json.loads((tmp_path / "model" / "training.json").read_text())["step"] == best["step"]
    assert open_run_model(scored, "judged", ExportWeights.ema).step == best["step"]


def test_a_run_that_was_not_judged_has_no_judged_checkpoint(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", f"run={trained}", f"out={tmp_path / 'model'}", "checkpoint=judged"]) == EXIT_INPUT
    assert capsys.readouterr().err.count("\n") == 1
    (trained / "scores").mkdir()
    (trained / "scores" / "best.json").write_text('{"checkpoint": "x"}')
    assert main(["export", f"run={trained}", f"out={tmp_path / 'model'}", "checkpoint=judged"]) == EXIT_INPUT
    assert "best.json: is damaged" in capsys.readouterr().err
    shutil.rmtree(trained / "scores")


def test_the_page_shows_curves_figures_and_the_clips_of_each_step(scored: Path) -> None:
    page = (scored / "scores" / "index.html").read_text()
    assert "Held-out loss" in page
    assert page.count('class="curve"') >= 4
    sounds = re.findall(r'<audio [^>]*src="([^"]+)"', page)
    assert len(sounds) == 4  # two prompts at two steps
    assert all((scored / "scores" / sound).is_file() for sound in sounds)
    assert page.count('<tr class="is-best">') == 1


def test_a_stopped_command_goes_on_with_the_next_checkpoint(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, scored = shutil.copytree(trained, tmp_path / "run"), []

    def score(scoring: RunScoring, model: GridModel) -> CheckpointScores:
        scored.append(model.step)
        rows = [ResultRow("kid", "", model.step, None, None, None)]
        clips = [{"file": f"{number}.wav"} for number in range(16)]
        return CheckpointScores(str(model.step), model.step, "ema", model.fingerprint, scoring._settings, rows, clips)

    monkeypatch.setattr(RunScoring, "_score", score)
    config = RunConfig(device="cpu", num_clips=16)
    with pytest.raises(StoppedError, match="1 of 2 checkpoints are scored"):
        RunScoring(str(run), config, asked_to_stop=lambda: True).run()
    assert RunScoring(str(run), config).run().best.scores.step == 2
    assert scored == [2, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one run, and none is given"),
        (["nowhere"], "nowhere: not a run folder"),
        (["RUN", "num_clips=4"], "num_clips=4: KID needs at least 16"),
        (["RUN", "real=nowhere"], "real=nowhere: is no dataset folder"),
        (["RUN", "out=RUN"], "is the run itself"),
        (["RUN", "checkpoints=7"], "checkpoint=7: .* has no such checkpoint; it has: 2, 4"),
        (["RUN", "embedder_source=x"], "embedder_source=x: musicnn is part of the package"),
    ],
)
def test_wrong_input_is_one_line(
    trained: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "run", *(one.replace("RUN", str(trained)) for one in arguments)]) == EXIT_INPUT
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_a_dataset_that_was_moved_is_asked_for(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(trained.parent / "dataset"), str(tmp_path / "gone")))
    assert main(["evaluate", "run", str(run)]) == EXIT_INPUT
    assert "is not there; give its new place with real=DATASET" in capsys.readouterr().err
    small = write_dataset(tmp_path / "small", 4, 3)
    assert main(["evaluate", "run", str(run), f"real={small}"]) == EXIT_INPUT
    assert "its validation split has 3 slices, and KID needs at least 16" in capsys.readouterr().err
