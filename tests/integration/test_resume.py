import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.nano import train_arguments, train_config, write_dataset
from support.processes import start_command

from riffusion_train.cli.main import main
from riffusion_train.runtime.errors import EXIT_STOPPED, InputError, StoppedError
from riffusion_train.training.run import run_training
from riffusion_train.training.trainer import Trainer

TRAINED = ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")
WHOLE = ["max_train_steps=10", "method.train_text_encoder=true", "objective=min_snr", "gradient_accumulation_steps=2"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", num_train=11)


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten steps that nobody stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return run_training(train_config(dataset, run, *WHOLE), [])


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the run receive SIGTERM while it does a step."""
    update = Trainer._update

    def update_and_signal(trainer: Trainer) -> None:
        update(trainer)
        if trainer.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_update", update_and_signal)


def assert_same_run(run: Path, other: Path) -> None:
    for name in TRAINED:
        weights, others = load_file(run / "final" / name), load_file(other / "final" / name)
        assert weights.keys() == others.keys()
        different = [key for key in weights if not weights[key].equal(others[key])]
        assert not different
    assert losses(run) == losses(other)


def losses(run: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["lr"]) for line in lines]


@pytest.mark.parametrize("workers", [0, 2])
def test_ten_steps_equal_five_plus_five_bit_for_bit(
    dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    words = [*WHOLE, "resume=auto", f"dataloader_num_workers={workers}"]
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(StoppedError, match="step 5 is saved"):
            run_training(train_config(dataset, tmp_path / "run", *words), [])
    assert not (tmp_path / "run" / "final").exists()
    run_training(train_config(dataset, tmp_path / "run", *words), [])
    assert_same_run(tmp_path / "run", whole)


def test_a_killed_run_continues_from_its_checkpoint(dataset: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*train_arguments(dataset, run, *WHOLE), "checkpointing_steps=2", "resume=auto"]
    process = start_command(["train", *words], tmp_path / "log")
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "step-000004").exists() and process.is_alive():
        assert time.monotonic() < deadline, "no checkpoint in two minutes"
        time.sleep(0.02)
    process.kill()
    process.join()
    run_training(train_config(dataset, run, *WHOLE, "checkpointing_steps=2", "resume=auto"), [])
    assert_same_run(run, whole)


def test_sigterm_ends_the_command_with_its_state_saved_and_its_own_exit_code(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = train_arguments(dataset, run, "max_train_steps=100000")
    process = start_command(["train", *words], tmp_path / "log")
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists():
        assert time.monotonic() < deadline, "no step in two minutes"
        time.sleep(0.05)
    process.terminate()
    process.join(60)
    assert process.exitcode == EXIT_STOPPED
    assert "the same command with resume=auto continues" in (tmp_path / "log").read_text()
    assert len(list((run / "checkpoints").iterdir())) == 1


def test_a_finished_run_is_left_alone(dataset: Path, whole: Path) -> None:
    before = (whole / "metrics.jsonl").read_bytes()
    run_training(train_config(dataset, whole, *WHOLE, "resume=auto"), [])
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_a_run_folder_is_not_written_over(dataset: Path, whole: Path) -> None:
    with pytest.raises(InputError, match="continue it with resume=auto"):
        run_training(train_config(dataset, whole, *WHOLE), [])


def test_other_settings_are_refused_by_name(dataset: Path, whole: Path) -> None:
    words = [*WHOLE, "resume=auto", "optimizer.lr=5e-4"]
    with pytest.raises(InputError, match=r"optimizer\.lr was 0\.001, now 0\.0005"):
        run_training(train_config(dataset, whole, *words), [])


def test_another_batch_size_is_refused(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(StoppedError):
            run_training(train_config(dataset, tmp_path / "run", *WHOLE), [])
    words = [*WHOLE, "resume=auto", "train_batch_size=3"]
    with pytest.raises(InputError, match=r"the run has 8 slices in a step, this start 6; 8 does not divide by .* = 3"):
        run_training(train_config(dataset, tmp_path / "run", *words), [])
    words = [*WHOLE, "resume=auto", "train_batch_size=2"]
    with pytest.raises(InputError, match="this start 4; take gradient_accumulation_steps=4"):
        run_training(train_config(dataset, tmp_path / "run", *words), [])


def test_a_damaged_newest_checkpoint_costs_steps_and_nothing_else(
    dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WHOLE, "resume=auto", "checkpointing_steps=3"]
    with monkeypatch.context() as patch:
        stop_after(7, patch)
        with pytest.raises(StoppedError):
            run_training(train_config(dataset, tmp_path / "run", *words), [])
    damaged = tmp_path / "run" / "checkpoints" / "step-000007" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    run_training(train_config(dataset, tmp_path / "run", *words), [])
    assert "step-000007 is damaged" in capsys.readouterr().out
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize(("optimizer", "package"), [("prodigy", "prodigyopt"), ("schedule_free", "schedulefree")])
def test_the_optimizers_of_other_packages_resume_exactly(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, package: str
) -> None:
    """Measured and saved on the way, which puts the averages of schedule-free in place and takes them out again."""
    pytest.importorskip(package)
    words = ["max_train_steps=6", f"optimizer={optimizer}", "schedule=warmup", "resume=auto", "ema=none"]
    runs = []
    for name, stop, more in (("whole", None, []), ("parts", 3, ["validation.every_steps=2", "checkpointing_steps=2"])):
        config = train_config(dataset, tmp_path / name, *words, *more)
        with monkeypatch.context() as patch:
            if stop is not None:
                stop_after(stop, patch)
                with pytest.raises(StoppedError):
                    run_training(config, [])
        runs.append(run_training(config, []))
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    found = [[row["loss"] for row in each if "loss" in row] for each in rows]
    assert found[0] == found[1]
    finals = [load_file(run / "final" / TRAINED[0]) for run in runs]
    assert all(tensor.equal(finals[1][name]) for name, tensor in finals[0].items())
    state = runs[0] / "checkpoints" / "step-000006"
    trained = load_file(state / "trained.safetensors")
    averaged = load_file(state / "ema.safetensors")
    same = all(tensor.equal(finals[0][name.removeprefix("unet.")]) for name, tensor in (averaged or trained).items())
    assert same
    assert bool(averaged) == (optimizer == "schedule_free")


def test_a_run_of_another_model_or_dataset_is_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["max_train_steps=3", "ema=none", "resume=auto"]
    for name, seed in (("base", 0), ("other", 1)):
        run_training(train_config(dataset, tmp_path / name, "max_train_steps=1", "ema=none", f"seed={seed}"), [])
    shutil.copytree(tmp_path / "base" / "final", tmp_path / "model")
    config = train_config(dataset, tmp_path / "run", *words, f"model={tmp_path / 'model'}")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(StoppedError):
            run_training(config, [])
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(tmp_path / "other" / "final", tmp_path / "model")
    with pytest.raises(InputError, match=r"was started from another model than .* \(vae, text_encoder, unet differ\)"):
        run_training(config, [])
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(tmp_path / "base" / "final", tmp_path / "model")
    there = tmp_path / "dataset"
    shutil.copytree(dataset, there)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["dataset"]["fingerprint"] = "0" * 64
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="was started on another dataset"):
        run_training(config, [])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_finished_run_is_trained_longer(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], schedule: str
) -> None:
    run, words = tmp_path / "run", [f"schedule={schedule}", "resume=auto"]
    run_training(train_config(dataset, run, *words, "max_train_steps=4"), [])
    ended = load_file(run / "final" / TRAINED[0])
    capsys.readouterr()
    run_training(train_config(dataset, run, *words, "max_train_steps=8"), [])
    said = capsys.readouterr().out
    assert f"the model that it ended with is kept in {run / 'final-000004'}" in said
    assert all(weight.equal(ended[name]) for name, weight in load_file(run / "final-000004" / TRAINED[0]).items())
    whole = run_training(train_config(dataset, tmp_path / "whole", *words, "max_train_steps=8"), [])
    longer, at_once = losses(run), losses(whole)
    assert [step for step, _, _ in longer] == list(range(1, 9))
    assert longer[4][2] == at_once[4][2], "after the first step that was added"
    if schedule == "constant":
        assert_same_run(run, whole)
        assert "learning rate" not in said
    else:
        assert said.count("note: the learning rate depends on max_train_steps") == 1
        assert "instead of 0\n" in said
        assert [rate for _, _, rate in longer[4:]] == [rate for _, _, rate in at_once[4:]]
    with pytest.raises(InputError, match="max_train_steps was 8, now 6; it may only grow"):
        run_training(train_config(dataset, run, *words, "max_train_steps=6"), [])
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match=f"no checkpoint to go on from; start another run .* model={run / 'final'}"):
        run_training(train_config(dataset, run, *words, "max_train_steps=9"), [])
    assert (run / "final").is_dir()


def test_a_run_that_was_made_longer_and_stopped_goes_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, words = tmp_path / "run", ["schedule=constant", "resume=auto"]
    run_training(train_config(dataset, run, *words, "max_train_steps=2"), [])
    config = train_config(dataset, run, *words, "max_train_steps=5")
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(StoppedError):
            run_training(config, [])
    assert not (run / "final").exists()
    run_training(config, [])
    assert_same_run(run, run_training(train_config(dataset, tmp_path / "whole", *words, "max_train_steps=5"), []))


def test_a_run_does_not_depend_on_the_current_folder_nor_on_where_its_base_and_dataset_are(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    shutil.copytree(dataset, home / "dataset")
    elsewhere.mkdir()
    monkeypatch.chdir(home)
    run_training(train_config(Path("dataset"), Path("first"), "max_train_steps=1", "ema=none"), [])
    Path("first/final").rename("base")
    words = ["max_train_steps=3", "ema=none", "resume=auto"]
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(StoppedError):
            run_training(train_config(Path("dataset"), Path("run"), *words, "model=base"), [])
    run = home / "run"
    monkeypatch.chdir(elsewhere)
    export = ["export", f"run={run}", "checkpoint=newest", "weights=raw"]
    assert main([*export, "out=before"]) == 0
    for name in ("base", "dataset"):
        (home / name).rename(elsewhere / name)
    capsys.readouterr()
    assert main([*export, "out=moved"]) == 2
    assert f"its base {home / 'base'} is not there; give its new place with base=PATH" in capsys.readouterr().err
    assert main([*export, "out=moved", "base=base"]) == 0
    before, moved = (load_file(elsewhere / name / TRAINED[0]) for name in ("before", "moved"))
    assert all(weight.equal(moved[name]) for name, weight in before.items())
    run_training(train_config(Path("dataset"), run, *words, "model=base"), [])
    assert main([*export, "out=after"]) == 0
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["dataset"]["path"] == str(elsewhere / "dataset")
    assert manifest["base_model"]["source"] == str(elsewhere / "base")


def test_a_relative_base_of_version_0_1_0_is_found_from_another_folder(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_training(train_config(dataset, Path("first"), "max_train_steps=1", "ema=none"), [])
    run = run_training(
        train_config(dataset, Path("runs/mine"), "max_train_steps=1", "model=first/final"), []
    ).absolute()
    for file in (run / "manifest.json", run / "config.yaml"):
        file.write_text(file.read_text().replace(str(tmp_path / "first"), "first"))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert main(["export", f"run={run}", "out=model", "checkpoint=newest"]) == 0


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(dataset: Path, tmp_path: Path) -> None:
    words = ["max_train_steps=50", "optimizer.lr=1e30", "schedule=constant", "max_grad_norm=1e30"]
    with pytest.raises(
        InputError, match=r"loss of step \d+ is not finite; no weight was changed, .* Its slices: \d+\.wav"
    ):
        run_training(train_config(dataset, tmp_path / "run", *words), [])
    assert not (tmp_path / "run" / "final").exists()
