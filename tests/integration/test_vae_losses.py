"""Training a VAE with a perceptual loss and a discriminator: it resumes exactly, and two ranks train as one."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.nano import train_arguments, train_config, write_dataset
from support.processes import run_ranks

from riffusion_train.cli.main import main
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.training.run import run_training
from riffusion_train.training.run_folder import Checkpoints
from riffusion_train.training.trainer import Trainer

START = 4
WORDS = [
    "method=vae",
    "method.train_vae_encoder=true",
    "method.perceptual_weight=0.5",
    "method.tagger_weight=0.5",
    "method.texture_weight=0.5",
    "method.decoder_noise=0.2",
    "method.discriminator_weight=0.5",
    f"method.discriminator_start_step={START}",
    "method.discriminator_channels=8",
    "method.discriminator_layers=2",
    "max_train_steps=8",
    "gradient_accumulation_steps=2",
    "train_batch_size=2",
]
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_training(train_config(dataset, tmp_path_factory.mktemp("whole") / "run", *WORDS), [])


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def learned(run: Path) -> list[tuple[float, ...]]:
    keys = ("step", "loss", "discriminator_loss", "adversarial_weight")
    return [tuple(line.get(key, 0.0) for key in keys) for line in metrics(run)]


@pytest.mark.parametrize("stopped_at", [2, START, 7])
def test_eight_steps_equal_two_parts_bit_for_bit_wherever_the_discriminator_starts(
    dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    run, update = tmp_path / "run", Trainer._update

    def update_and_signal(trainer: Trainer) -> None:
        update(trainer)
        if trainer.step == stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", update_and_signal)
        with pytest.raises(StoppedError, match=f"step {stopped_at} is saved"):
            run_training(train_config(dataset, run, *WORDS), [])
    run_training(train_config(dataset, run, *WORDS, "resume=auto"), [])
    ours, theirs = load_file(run / "final" / VAE), load_file(whole / "final" / VAE)
    assert not [name for name in theirs if not ours[name].equal(theirs[name])]
    states = [Checkpoints(path / "checkpoints", 2).load_newest()[0] for path in (run, whole)]
    assert states[0] is not None and states[1] is not None and states[0].adversary
    assert not [name for name, one in states[1].adversary.items() if not states[0].adversary[name].equal(one)]
    assert learned(run) == learned(whole)


def test_the_discriminator_is_logged_from_its_start_on(whole: Path) -> None:
    lines = metrics(whole)
    assert ["discriminator_loss" in line for line in lines] == [line["step"] > START for line in lines]
    assert all(line["adversarial_weight"] > 0 for line in lines if line["step"] > START)


def test_only_runs_with_a_discriminator_have_its_file(dataset: Path, whole: Path, tmp_path: Path) -> None:
    plain = [word for word in WORDS if "discriminator" not in word]
    run = run_training(train_config(dataset, tmp_path / "run", *plain), [])
    checkpoints = [next((path / "checkpoints").glob("step-*")) for path in (run, whole)]
    assert [(path / "adversary.safetensors").is_file() for path in checkpoints] == [False, True]
    assert "adversary" not in json.loads((checkpoints[0] / "state.json").read_text())["scalars"]
    before = [line["loss"] for line in metrics(run)][:START]
    assert [line["loss"] for line in metrics(whole)][:START] == before


def test_a_decoder_alone_is_trained_against_it(dataset: Path, tmp_path: Path) -> None:
    words = [word for word in WORDS if not word.startswith(("method.train_vae_encoder", "method.discriminator_start"))]
    run = run_training(train_config(dataset, tmp_path / "run", *words, "max_train_steps=3"), [])
    start = Checkpoints(run / "checkpoints", 2).load_newest()[0]
    assert start is not None and all(name.startswith(("vae.decoder", "vae.post_quant")) for name in start.trained)
    assert metrics(run)[-1]["adversarial_weight"] > 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["method.perceptual_weight=1"], r"method\.perceptual_weight=1\.0: is of method=vae"),
        (["method.tagger_weight=1"], r"method\.tagger_weight=1\.0: is of method=vae"),
        (["method.texture_weight=1"], r"method\.texture_weight=1\.0: is of method=vae"),
        (["method.decoder_noise=1"], r"method\.decoder_noise=1\.0: is of method=vae"),
        (["method=vae", "method.decoder_noise=-1"], r"method\.decoder_noise=-1\.0: "),
        (["method=lora", "method.discriminator_weight=1"], r"method\.discriminator_weight=1\.0: is of method=vae"),
        ([*WORDS, "max_train_steps=4"], r"discriminator_start_step=4: the run ends before, at max_train_steps=4"),
        ([*WORDS, "method.discriminator_lr=0"], r"discriminator_lr=0\.0: must be above 0"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(
    dataset: Path, tmp_path: Path, words: list[str], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        run_training(train_config(dataset, tmp_path / "run", *words), [])
    assert not (tmp_path / "run").exists()


def test_fsdp_is_refused(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(InputError, match=r"method\.discriminator_weight needs whole weights, which FSDP shards"):
        run_training(train_config(dataset, tmp_path / "run", *WORDS), [])


@pytest.mark.two_ranks
def test_two_processes_train_the_vae_and_its_discriminator_as_one_does(
    dataset: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = [*train_arguments(dataset, run, *WORDS), "train_batch_size=1"]
    run_ranks(lambda: main(["train", *words]), tmp_path / "log")
    assert json.loads((run / "manifest.json").read_text())["world_size"] == 2
    for (*ours, weight), (*theirs, expected) in zip(learned(run), learned(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-2)
        assert weight == pytest.approx(expected, rel=0.2)  # a ratio of small gradients, in which rounding grows
    states = [Checkpoints(path / "checkpoints", 2).load_newest()[0] for path in (run, whole)]
    assert states[0] is not None and states[1] is not None
    for name, one in states[1].adversary.items():
        if name.startswith("weight."):
            assert torch.allclose(states[0].adversary[name], one, atol=2e-3), name
