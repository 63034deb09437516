import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support.nano import train_arguments, train_config, write_dataset
from support.processes import run_ranks

from riffusion_train.cli.main import main
from riffusion_train.config.model import ExportWeights
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.training.run import run_training
from riffusion_train.training.run_model import open_run_model
from riffusion_train.training.trainer import Trainer

JUDGED = [
    "validation=judge",
    "validation.every_steps=2",
    "validation.num_clips=16",
    "validation.num_slices=4",
    "validation.num_inference_steps=1",
    "validation.quality=draft",
    "max_train_steps=4",
    "checkpointing_steps=2",
]
FIGURES = ("validation_kid", "validation_agreement", "validation_copies")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty slices to learn from and fifty to compare with: what captions and copies need at least."""
    captions = ["a low band" if (5 * number) % 28 < 14 else "a high band" for number in range(50)]
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", 50, 50, captions=captions)


@pytest.fixture(scope="module")
def judged(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, judged twice, with previews."""
    run = tmp_path_factory.mktemp("judged") / "run"
    previews = [
        "preview.every_steps=2",
        "preview.num_prompts=1",
        "preview.num_inference_steps=1",
        "preview.quality=draft",
    ]
    return run_training(train_config(dataset, run, *JUDGED, *previews), [])


def rows(run: Path, key: str = "validation_loss") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if key in line]


def state(run: Path, step: int = 4) -> dict[str, Any]:
    data = json.loads((run / "checkpoints" / f"step-{step:06d}" / "state.json").read_text())
    return dict(data["scalars"]["validation"])


def test_clips_are_judged_beside_the_held_out_loss(judged: Path) -> None:
    found = rows(judged)
    assert [row["step"] for row in found] == [2, 4]
    for row in found:
        assert all(isinstance(row[key], float) for key in FIGURES)
        assert 0 <= row["validation_agreement"] <= 1
        assert 0 <= row["validation_copies"] <= 1


def test_the_checkpoint_of_the_lowest_kid_is_kept(judged: Path) -> None:
    best = min(rows(judged), key=lambda row: row["validation_kid"])
    assert open_run_model(judged, "best", ExportWeights.ema).step == best["step"]
    assert state(judged)["monitored"] == "validation_kid"
    assert state(judged)["best"] == best["validation_kid"]


def test_the_page_of_previews_shows_the_figures_of_each_step(judged: Path) -> None:
    site = json.loads((judged / "previews" / "site.json").read_text())
    notes = {version["step"]: version["note"] for version in site["versions"]}
    for row in rows(judged):
        assert f"KID {row['validation_kid']:.3g}" in notes[row["step"]]
        assert f"copies {row['validation_copies']:.0%}" in notes[row["step"]]


def test_judging_changes_nothing_of_the_run(dataset: Path, judged: Path, tmp_path: Path) -> None:
    plain = run_training(train_config(dataset, tmp_path / "plain", "max_train_steps=4"), [])
    name = "final/unet/diffusion_pytorch_model.safetensors"
    weights, others = load_file(judged / name), load_file(plain / name)
    assert weights.keys() == others.keys()
    assert all(weights[key].equal(others[key]) for key in weights)
    assert [row["loss"] for row in rows(judged, "loss")] == [row["loss"] for row in rows(plain, "loss")]


def test_a_stopped_run_is_judged_as_if_it_had_not_stopped(
    dataset: Path, judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Trainer._update

    def update_and_signal(trainer: Trainer) -> None:
        update(trainer)
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", update_and_signal)
        with pytest.raises(StoppedError):
            run_training(train_config(dataset, tmp_path / "run", *JUDGED), [])
    run = run_training(train_config(dataset, tmp_path / "run", *JUDGED, "resume=auto"), [])
    assert rows(run) == rows(judged)
    assert state(run) == state(judged)


def test_a_run_goes_on_with_another_monitor_and_counts_anew(dataset: Path, judged: Path, tmp_path: Path) -> None:
    run = shutil.copytree(judged, tmp_path / "run")
    words = [*JUDGED, "max_train_steps=6", "resume=auto"]
    run_training(train_config(dataset, run, *words, "validation.monitor=agreement"), [])
    assert state(run, 6)["monitored"] == "validation_agreement"
    assert state(run, 6)["best"] == rows(run)[-1]["validation_agreement"]
    assert state(run, 6)["without_improvement"] == 0


def test_a_run_stops_where_kid_no_longer_falls(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a rate of nearly nothing every clip is the same every time, and so is KID."""
    words = [*JUDGED, "validation.every_steps=1", "validation.patience=1", "optimizer.lr=1e-12", "ema=none"]
    run = run_training(train_config(dataset, tmp_path / "run", *words), [])
    assert len(rows(run)) < 4
    stopped = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stopped at step")]
    assert len(stopped) == 1
    assert "KID has not been below" in stopped[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["validation.num_clips=0"], "validation.monitor=kid needs clips to judge"),
        (["validation.num_clips=8"], "validation.num_clips=8: KID needs at least 16"),
        (["validation.num_real=8"], "validation.num_real=8: KID needs at least 16"),
        (
            ["validation.every_steps=0", "validation.patience=null", "validation.keep_best=false"],
            "needs validation.every_steps",
        ),
        (["method=vae"], "method=vae trains on images alone"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    dataset: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_training(train_config(dataset, tmp_path / "run", *JUDGED, *words), [])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("num_validation", "words", "message"),
    [
        (0, [], "has no validation split"),
        (12, [], "its validation split has 12 slices, and KID needs at least 16"),
        (20, ["validation.monitor=agreement"], "validation.monitor=agreement: .*at least 50 real clips with captions"),
    ],
)
def test_a_dataset_with_too_little_to_judge_by_is_refused_before_the_first_step(
    tmp_path: Path, num_validation: int, words: list[str], message: str
) -> None:
    dataset = write_dataset(tmp_path / "dataset", 12, num_validation)
    with pytest.raises(InputError, match=message):
        run_training(train_config(dataset, tmp_path / "run", *JUDGED, *words), [])
    assert not (tmp_path / "run").exists()


@pytest.mark.two_ranks
def test_two_ranks_get_the_figures_of_one(dataset: Path, tmp_path: Path) -> None:
    words = [*JUDGED, "validation.every_steps=1", "max_train_steps=1", "optimizer.lr=1e-12", "ema=none"]
    alone = run_training(train_config(dataset, tmp_path / "alone", *words), [])
    arguments = [*train_arguments(dataset, tmp_path / "run", *words), "train_batch_size=2"]
    run_ranks(lambda: main(["train", *arguments]), tmp_path / "log")
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["world_size"] == 2
    (one,), (other,) = rows(alone), rows(tmp_path / "run")
    assert {key: one[key] for key in FIGURES} == pytest.approx({key: other[key] for key in FIGURES}, rel=1e-5)
