import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support.nano import train_config, write_dataset

from riffusion_train.config.model import ExportWeights
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.training.run import run_training
from riffusion_train.training.run_model import open_run_model
from riffusion_train.training.trainer import Trainer

EVERY_TWO = ["validation.every_steps=2", "max_train_steps=4"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


def rows(run: Path, key: str = "validation_loss") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if key in line]


def test_the_held_out_loss_is_written_for_each_timestep_and_in_the_mean(dataset: Path, tmp_path: Path) -> None:
    run = run_training(train_config(dataset, tmp_path / "run", *EVERY_TWO), [])
    found = rows(run)
    assert [row["step"] for row in found] == [2, 4]
    parts = [f"validation_loss_t{part}" for part in ("0.1", "0.3", "0.5", "0.7", "0.9")]
    for row in found:
        assert row["validation_loss"] == pytest.approx(sum(row[part] for part in parts) / 5)
        assert len({row[part] for part in parts}) == 5


def test_measuring_changes_nothing_of_the_run(dataset: Path, tmp_path: Path) -> None:
    losses = []
    for every in (0, 1):
        words = ["max_train_steps=4", f"validation.every_steps={every}"]
        run = run_training(train_config(dataset, tmp_path / str(every), *words), [])
        losses.append([(row["loss"], row["grad_norm"]) for row in rows(run, "loss")])
    assert losses[0] == losses[1]


def test_runs_of_other_seeds_and_weightings_are_measured_alike(dataset: Path, tmp_path: Path) -> None:
    """With a rate of nearly nothing the model stays what it was, and so must its held-out loss."""
    base = tmp_path / "base"
    run_training(train_config(dataset, base, "max_train_steps=1", "ema=none"), [])
    found = []
    for seed, words in ((1, []), (2, ["objective=min_snr", "objective.proportion_empty_prompts=1", "ema=none"])):
        words = [*words, "max_train_steps=1", "validation.every_steps=1", "optimizer.lr=1e-12", f"seed={seed}"]
        config = train_config(dataset, tmp_path / str(seed), *words, f"model={base / 'final'}")
        found.append(rows(run_training(config, []))[0]["validation_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_the_averaged_weights_are_measured(dataset: Path, tmp_path: Path) -> None:
    """The final model is the average: what was measured of it while training is what it is measured to be afterwards."""
    words = ["max_train_steps=4", "validation.every_steps=4", "optimizer.lr=1e-2", "schedule=constant"]
    averaged = run_training(train_config(dataset, tmp_path / "averaged", *words), [])
    raw = run_training(train_config(dataset, tmp_path / "raw", *words, "ema=none"), [])
    words = ["max_train_steps=1", "validation.every_steps=1", "optimizer.lr=1e-12", "ema=none"]
    again = run_training(train_config(dataset, tmp_path / "again", *words, f"model={averaged / 'final'}"), [])
    measured, of_raw, afterwards = (rows(run)[0]["validation_loss"] for run in (averaged, raw, again))
    assert measured == pytest.approx(afterwards, rel=1e-6)
    assert measured != pytest.approx(of_raw, rel=1e-3)


def test_a_run_stops_where_the_loss_no_longer_falls_and_keeps_the_best(dataset: Path, tmp_path: Path) -> None:
    words = ["max_train_steps=60", "schedule=constant", "optimizer.lr=3e-2", "ema=none", "checkpoints_total_limit=1"]
    words += ["validation.every_steps=1", "validation.patience=3", "validation.keep_best=true"]
    run = run_training(train_config(dataset, tmp_path / "run", *words), [])
    found = rows(run)
    losses = [row["validation_loss"] for row in found]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(found) < 60
    assert len(losses) - 1 - best == 3
    steps = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert steps == sorted({f"step-{found[best]['step']:06d}", f"step-{found[-1]['step']:06d}"})
    assert open_run_model(run, "best", ExportWeights.raw).step == found[best]["step"]
    assert open_run_model(run, "final", ExportWeights.raw).step == found[-1]["step"]
    assert rows(run, "loss")[-1]["step"] == found[-1]["step"]


def test_a_stopped_run_keeps_its_patience_and_its_measurements(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "max_train_steps=8",
        "schedule=constant",
        "validation.every_steps=2",
        "validation.patience=4",
        "resume=auto",
    ]
    words += ["validation.keep_best=true"]
    whole = run_training(train_config(dataset, tmp_path / "whole", *words), [])
    update = Trainer._update

    def update_and_signal(trainer: Trainer) -> None:
        update(trainer)
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", update_and_signal)
        with pytest.raises(StoppedError):
            run_training(train_config(dataset, tmp_path / "run", *words), [])
    run = run_training(train_config(dataset, tmp_path / "run", *words), [])
    assert rows(run) == rows(whole)
    state = [json.loads(next(path.glob("checkpoints/step-000008/state.json")).read_text()) for path in (run, whole)]
    assert state[0]["scalars"]["validation"] == state[1]["scalars"]["validation"]


def test_the_vae_is_measured_on_images(dataset: Path, tmp_path: Path) -> None:
    run = run_training(train_config(dataset, tmp_path / "run", "method=vae", *EVERY_TWO), [])
    assert [set(row) for row in rows(run)] == [{"step", "validation_loss"}] * 2


def test_a_dataset_with_nothing_held_out_trains_unless_the_run_depends_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "dataset", num_validation=0)
    run = run_training(train_config(dataset, tmp_path / "run", *EVERY_TWO), [])
    assert not rows(run)
    assert "no validation split" in capsys.readouterr().out
    with pytest.raises(InputError, match="has no validation split to measure on"):
        run_training(train_config(dataset, tmp_path / "other", *EVERY_TWO, "validation.patience=1"), [])
