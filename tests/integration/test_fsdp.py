"""Two ranks that share out the trained weights train the run of one process, and its checkpoints are everyone's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.nano import train_arguments, train_config, write_dataset
from support.processes import free_port, run_ranks

from riffusion_train.cli.main import main
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.checks import check_launch
from riffusion_train.training.run import run_training

LAUNCH_FILE = Path(__file__).parents[2] / "launch" / "fsdp.yaml"
WORDS = [
    "max_train_steps=10",
    "method.train_text_encoder=true",
    "gradient_checkpointing=true",
    "validation.every_steps=5",
    "checkpointing_steps=5",
    "resume=auto",
]
EACH = ["train_batch_size=1", "gradient_accumulation_steps=2"]
PREVIEW = ["preview.every_steps=10", "preview.num_prompts=1", "preview.num_inference_steps=2"]
WEIGHTS = (
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def alone(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    return run_training(train_config(dataset, run, *WORDS), [])


@pytest.fixture(scope="module")
def shared(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by two ranks in passes of one slice each, through accelerate and the file that we offer."""
    run = tmp_path_factory.mktemp("shared") / "run"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH_FILE)]
    command += ["--num_processes", "2", "--main_process_port", str(free_port()), "-m", "riffusion_train", "train"]
    command += train_arguments(dataset, run, *WORDS, *EACH, *PREVIEW)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return run


def figures(run: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def interrupted(run: Path, target: Path) -> Path:
    """Return a copy of a run as it was after five steps."""
    shutil.copytree(run, target)
    shutil.rmtree(target / "final")
    shutil.rmtree(target / "checkpoints" / "step-000010")
    return target


def assert_close(file: Path, other: Path) -> None:
    tensors, others = load_file(file), load_file(other)
    assert {name: (one.shape, one.dtype) for name, one in tensors.items()} == {
        name: (one.shape, one.dtype) for name, one in others.items()
    }
    for name, tensor in tensors.items():
        assert torch.allclose(tensor, others[name], atol=2e-4), name


@pytest.mark.two_ranks
def test_two_ranks_that_share_the_weights_train_the_run_of_one(alone: Path, shared: Path) -> None:
    for key in ("loss", "grad_norm", "validation_loss"):
        assert figures(shared, key) == pytest.approx(figures(alone, key), rel=1e-3)
    for name in WEIGHTS:
        assert_close(shared / "final" / name, alone / "final" / name)
    for config in ("unet/config.json", "text_encoder/config.json", "vae/config.json", "spectrogram.json"):
        assert (shared / "final" / config).read_text() == (alone / "final" / config).read_text()
    assert len(list((shared / "previews" / "step-000010").glob("*.wav"))) == 1


@pytest.mark.two_ranks
@pytest.mark.parametrize("name", ["trained", "ema", "optimizer"])
def test_a_checkpoint_of_shared_weights_is_the_checkpoint_of_one_process(alone: Path, shared: Path, name: str) -> None:
    file = f"checkpoints/step-000010/{name}.safetensors"
    assert_close(shared / file, alone / file)


@pytest.mark.two_ranks
def test_ten_steps_of_shared_weights_equal_five_plus_five_bit_for_bit(
    dataset: Path, shared: Path, tmp_path: Path
) -> None:
    run = interrupted(shared, tmp_path / "run")
    words = ["train", *train_arguments(dataset, run, *WORDS, *EACH)]
    run_ranks(lambda: main(words), tmp_path / "log", ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    for file in [*(f"final/{name}" for name in WEIGHTS), "checkpoints/step-000010/optimizer.safetensors"]:
        tensors, others = load_file(run / file), load_file(shared / file)
        assert not [name for name, tensor in others.items() if not tensor.equal(tensors[name])]
    assert figures(run, "loss") == figures(shared, "loss")


@pytest.mark.two_ranks
def test_one_process_continues_where_shared_weights_were_left(
    dataset: Path, alone: Path, shared: Path, tmp_path: Path
) -> None:
    run = interrupted(shared, tmp_path / "run")
    run_training(train_config(dataset, run, *WORDS), [])
    assert figures(run, "loss")[:5] == figures(shared, "loss")[:5]
    for name in WEIGHTS:
        assert_close(run / "final" / name, alone / "final" / name)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("method=lora", "method=lora trains too few weights for FSDP to shard; take launch/multi_gpu.yaml"),
        ("optimizer=adamw_8bit", "optimizer=adamw_8bit needs whole weights, .*; take optimizer=adamw"),
        ("optimizer=prodigy", "optimizer=prodigy needs whole weights"),
        ("optimizer=schedule_free", "optimizer=schedule_free needs whole weights"),
        ("compile=true", "compile=true needs whole weights, which FSDP shards; take compile=false"),
    ],
)
def test_what_does_not_go_with_shared_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, message: str
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(InputError, match=message):
        check_launch(train_config(tmp_path, tmp_path / "run", word))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FSDP_VERSION", "1", "fsdp_version=1 is not supported; take launch/fsdp.yaml, or fsdp_version: 2 in yours"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params=true is not supported"),
        ("FSDP_RESHARD_AFTER_FORWARD", "false", "fsdp_reshard_after_forward: true in yours"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "the key gradient_checkpointing=true"),
    ],
)
def test_a_setting_of_accelerate_that_would_change_the_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    for key, usual in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", name: value}.items():
        monkeypatch.setenv(key, usual)
    with pytest.raises(InputError, match=message):
        check_launch(train_config(tmp_path, tmp_path / "run"))


def test_one_process_that_was_told_to_share_keeps_its_weights(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    run = run_training(train_config(dataset, tmp_path / "run", "max_train_steps=1"), [])
    assert (run / "final" / WEIGHTS[0]).is_file()
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
