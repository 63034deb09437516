"""Runs with changed captions: exact when they are resumed or shared, in the caches, in the record, and refused where wrong."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.nano import train_arguments, train_config, write_dataset

from riffusion_train.cli.main import main
from riffusion_train.dataset.cache import CACHE_DIR
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.training.run import run_training
from riffusion_train.training.trainer import Trainer

TAGS = [f"band {index}, slow, piano, low register, no drums" for index in range(12)]
KEYS = ["captions=tags", "captions.num_variants=3", "max_train_steps=10"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", captions=TAGS)


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("keys", [[], ["method.train_text_encoder=true"]], ids=["cached", "not cached"])
def test_ten_steps_with_changed_captions_equal_five_plus_five_bit_for_bit(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: list[str]
) -> None:
    whole = run_training(train_config(dataset, tmp_path / "whole", *KEYS, *keys), [])
    config = train_config(dataset, tmp_path / "run", *KEYS, *keys, "resume=auto")
    update = Trainer._update

    def update_and_signal(trainer: Trainer) -> None:
        update(trainer)
        if trainer.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", update_and_signal)
        with pytest.raises(StoppedError, match="step 5 is saved"):
            run_training(config, [])
    run_training(config, [])
    assert losses(tmp_path / "run") == losses(whole)
    name = "final/unet/diffusion_pytorch_model.safetensors"
    weights, others = load_file(tmp_path / "run" / name), load_file(whole / name)
    assert all(weights[key].equal(others[key]) for key in others)
    plain = run_training(train_config(dataset, tmp_path / "plain", "max_train_steps=1", *keys), [])
    assert losses(plain)[0] != losses(whole)[0]


def test_a_cache_holds_the_variants_of_each_caption_and_a_check_counts_their_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "dataset", captions=TAGS)
    sizes = {}
    for variants in (1, 4):
        keys = ["captions=tags", f"captions.num_variants={variants}", "cache_latents=false", "check=true"]
        assert main(["train", *train_arguments(dataset, tmp_path / "run", *keys)]) == 0
        said = re.search(r"(\S+) GiB of hidden states", capsys.readouterr().out)
        assert said is not None
        sizes[variants] = float(said[1])
    assert sizes[4] / sizes[1] == pytest.approx((1 + 4 * 12) / (1 + 12), rel=0.05)
    run_training(
        train_config(dataset, tmp_path / "run", "captions=tags", "captions.num_variants=4", "cache_only=true"), []
    )
    (texts,) = (dataset / CACHE_DIR).glob("texts-*.safetensors")
    assert load_file(texts)["rows"].shape[0] == 1 + 4 * 12


def test_more_variants_use_the_rows_of_fewer_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_dataset(tmp_path / "dataset", captions=TAGS)
    keys = ["captions=tags", "cache_latents=false", "cache_only=true"]
    run_training(train_config(dataset, tmp_path / "few", *keys, "captions.num_variants=2"), [])
    run_training(train_config(dataset, tmp_path / "more", *keys, "captions.num_variants=3"), [])
    assert "note: 25 cached hidden states are used again, 12 are new" in capsys.readouterr().out


def test_a_run_records_what_it_did_with_captions_and_does_not_go_on_otherwise(dataset: Path, tmp_path: Path) -> None:
    keys = ["captions=tags", "captions.weights=[2,1]", "max_train_steps=1"]
    run = run_training(train_config(dataset, tmp_path / "run", *keys), [])
    written = (run / "config.yaml").read_text()
    assert "captions:\n  weights:\n  - 2.0\n  - 1.0\n  shuffle_tags: true\n" in written
    with pytest.raises(InputError, match=r"captions\.tag_dropout was 0\.1, now 0\.5"):
        run_training(train_config(dataset, run, *keys, "captions.tag_dropout=0.5", "resume=auto"), [])


def test_captions_longer_than_the_model_reads_are_cut(tmp_path: Path) -> None:
    long = [", ".join(f"tag number {number} of {index}" for number in range(60)) for index in range(12)]
    dataset = write_dataset(tmp_path / "dataset", captions=long)
    run = run_training(train_config(dataset, tmp_path / "run", *KEYS, "max_train_steps=2"), [])
    assert len(losses(run)) == 2
