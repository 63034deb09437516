"""The caches of a run: what is in them, that they change nothing, and that filling them can be stopped and shared."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from accelerate import PartialState
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from support.nano import train_arguments, train_config, write_dataset
from support.processes import run_ranks

from riffusion_train.cli.main import main
from riffusion_train.config.train import CacheDtype
from riffusion_train.dataset.cache import CACHE_DIR, RowCache
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.training.distribution import run_together
from riffusion_train.training.run import run_training
from riffusion_train.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


def losses(run: Path, key: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def files(dataset: Path) -> list[str]:
    """Name the caches of a dataset by what they hold."""
    paths = sorted((dataset / CACHE_DIR).glob("*.*"))  # without the list of keys
    return [path.name.partition("-")[0] + path.suffix for path in paths]


def count_groups(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Note every group of rows that is written: the cache, and its first row."""
    write, written = RowCache._write, []

    def noted(cache: RowCache, file: int, start: int, rows: np.ndarray) -> None:
        written.append((cache.kind.name, start))
        write(cache, file, start, rows)

    monkeypatch.setattr(RowCache, "_write", noted)
    return written


def test_a_run_with_caches_and_those_without_have_the_same_losses(dataset: Path, tmp_path: Path) -> None:
    words = [
        "max_train_steps=6",
        "objective.proportion_empty_prompts=0.4",
        "validation.every_steps=3",
        "cache_dtype=fp32",
    ]
    without = {"both": [], "latents": ["cache_latents=false"], "texts": ["cache_text_embeddings=false"]}
    runs = {
        name: run_training(train_config(dataset, tmp_path / name, *words, *keys), []) for name, keys in without.items()
    }
    for what in ("loss", "validation_loss"):
        for name in ("latents", "texts"):
            assert losses(runs[name], what) == pytest.approx(losses(runs["both"], what), rel=1e-5)


def test_the_second_run_computes_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    written = count_groups(monkeypatch)
    run_training(train_config(dataset, tmp_path / "none", "cache_only=true"), [])
    for run in ("first", "second"):
        run_training(train_config(dataset, tmp_path / run, "max_train_steps=2"), [])
    assert not (tmp_path / "none").exists()
    assert written == [("latents", 0), ("latents", 8), ("texts", 0), ("texts", 8), ("texts", 16), ("texts", 24)]
    assert losses(tmp_path / "first") == losses(tmp_path / "second")
    texts = load_file(next((dataset / CACHE_DIR).glob("texts-*")))
    assert texts["rows"].shape == (1 + 2 * 12, 77, 16)


def test_three_steps_cost_three_batches_and_the_next_ones_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "dataset", num_train=40)
    rows: list[str] = []
    fill = RowCache.fill
    monkeypatch.setattr(
        RowCache, "fill", lambda cache, *more: rows.extend([cache.kind.name] * len(cache.rows)) or fill(cache, *more)
    )
    run_training(train_config(dataset, tmp_path / "first", "max_train_steps=3"), [])
    assert rows.count("latents") == 12 and rows.count("texts") <= 12
    words = ["max_train_steps=10", "resume=auto"]
    run_training(train_config(dataset, tmp_path / "first", *words), [])
    assert rows.count("latents") == 40
    monkeypatch.setattr("riffusion_train.training.caches._FIRST_STRETCH", 8)
    run_training(train_config(dataset, tmp_path / "other", "max_train_steps=10", "cache_latents=false"), [])
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "first"), rel=1e-3)  # the others are fp16


def test_stretches_that_grow_and_another_start_train_the_same_run_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for number, (first_stretch, stops) in enumerate([(1024, [10]), (4, [5, 10]), (12, [3, 10])]):
        monkeypatch.setattr("riffusion_train.training.caches._FIRST_STRETCH", first_stretch)
        dataset = write_dataset(tmp_path / f"dataset-{number}", num_train=25)
        for stop in stops:
            words = [f"max_train_steps={stop}", "resume=auto", "schedule=constant"]
            run = run_training(train_config(dataset, tmp_path / f"run-{number}", *words), [])
        weights.append((run / "final" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]


def test_a_folder_for_caches_leaves_the_dataset_as_it_is_and_serves_several(tmp_path: Path) -> None:
    first, second = write_dataset(tmp_path / "a"), write_dataset(tmp_path / "b", num_train=14)
    before = sorted(path.name for path in first.rglob("*"))
    words = [f"cache_dir={tmp_path / 'caches'}", "cache_only=true"]
    for dataset in (first, second):
        path = run_training(train_config(dataset, tmp_path / "none", *words), [])
    assert path == tmp_path / "caches"
    assert sorted(path.name for path in first.rglob("*")) == before
    shapes = sorted(load_file(file)["rows"].shape[0] for file in path.glob("latents-*"))
    assert shapes == [2, 12], "the second dataset has two slices that the first has not"


def test_parts_of_the_caches_are_filled_by_machines_on_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    for part in (3, 1, 2):
        words = ["cache_only=true", f"cache_part={part}", "cache_parts=3"]
        run_training(train_config(dataset, tmp_path / "none", *words), [])
    written = count_groups(monkeypatch)
    run_training(train_config(dataset, tmp_path / "none", "cache_only=true"), [])
    run_training(train_config(dataset, tmp_path / "run", "max_train_steps=3"), [])
    assert written == []
    with pytest.raises(InputError, match="cache_part=4: give one of the cache_parts=3"):
        run_training(train_config(dataset, tmp_path / "none", "cache_part=4", "cache_parts=3"), [])


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_the_bytes_store_nearly_the_same_numbers(tmp_path: Path, dtype: str) -> None:
    runs = {}
    for kind in ("fp32", dtype):
        dataset = write_dataset(tmp_path / kind)
        words = [f"cache_dtype={kind}", "max_train_steps=6"]
        runs[kind] = losses(run_training(train_config(dataset, tmp_path / f"run-{kind}", *words), []))
    assert runs[dtype] == pytest.approx(runs["fp32"], rel=0.02) and runs[dtype] != runs["fp32"]
    halves = load_file(next((tmp_path / dtype / CACHE_DIR).glob("latents-*")))["rows"]
    whole = load_file(next((tmp_path / "fp32" / CACHE_DIR).glob("latents-*")))["rows"]
    assert halves.element_size() == 2
    assert halves.float().sub(whole).abs().max() <= whole.abs().max() * (2**-11 if dtype == "fp16" else 2**-8)


def test_caches_are_fp16_and_a_run_goes_on_with_the_dtype_that_it_began_with(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    words = ["schedule=constant", "resume=auto"]
    for run, own in (("new", []), ("old", ["cache_dtype=fp32"])):
        for steps, more in ((2, own), (4, [])):
            run_training(train_config(dataset, tmp_path / run, f"max_train_steps={steps}", *words, *more), [])
    run = tmp_path / "old"
    assert RunFolder(run).read_config().cache_dtype is CacheDtype.fp32
    assert RunFolder(tmp_path / "new").read_config().cache_dtype is CacheDtype.fp16
    whole = run_training(train_config(dataset, tmp_path / "whole", "max_train_steps=4", *words, "cache_dtype=fp32"), [])
    assert losses(run) == losses(whole) != losses(tmp_path / "new")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["method.train_text_encoder=true"], ["latents.safetensors"]),
        (["method=lora", "method.train_text_encoder=true"], ["latents.safetensors"]),
        (["cache_latents=false"], ["texts.safetensors"]),
        (["method=vae"], []),
    ],
    ids=" ".join,
)
def test_only_what_is_frozen_is_cached(tmp_path: Path, words: list[str], found: list[str]) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    run_training(train_config(dataset, tmp_path / "run", "max_train_steps=1", *words), [])
    assert files(dataset) == found


def test_a_filling_that_was_asked_to_stop_continues_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    words = ["max_train_steps=2", "resume=auto"]
    with monkeypatch.context() as patch:
        written = count_groups(patch)
        write = RowCache._write

        def write_and_signal(cache: RowCache, file: int, start: int, rows: np.ndarray) -> None:
            write(cache, file, start, rows)
            if cache.kind.name == "texts" and start == 8:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(RowCache, "_write", write_and_signal)
        with pytest.raises(StoppedError, match="encode captions: 16 of this process's 25 are done; the same command"):
            run_training(train_config(dataset, tmp_path / "run", *words, "cache_only=true"), [])
    assert written[-1] == ("texts", 8)
    assert files(dataset) == ["latents.safetensors", "texts.partial"]
    written = count_groups(monkeypatch)
    run_training(train_config(dataset, tmp_path / "run", *words, "cache_only=true"), [])
    assert written == [("texts", 16), ("texts", 24)]
    run_training(train_config(dataset, tmp_path / "run", *words), [])
    run_training(train_config(dataset, tmp_path / "other", "max_train_steps=2"), [])
    assert losses(tmp_path / "run") == losses(tmp_path / "other")


def test_an_extended_dataset_computes_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small, large = write_dataset(tmp_path / "small"), write_dataset(tmp_path / "large", num_train=20)
    run_training(train_config(small, tmp_path / "first", "cache_only=true"), [])
    (small / CACHE_DIR).rename(large / CACHE_DIR)
    capsys.readouterr()
    assert main(["train", *train_arguments(large, tmp_path / "run", "check=true")]) == 0
    written = count_groups(monkeypatch)
    run_training(train_config(large, tmp_path / "none", "cache_only=true"), [])
    run_training(train_config(large, tmp_path / "second", "max_train_steps=4"), [])
    assert written == [("latents", 0), ("texts", 0), ("texts", 8)]
    said = capsys.readouterr().out
    assert "note: 12 cached latents are used again, 8 are new" in said
    assert "note: 25 cached hidden states are used again, 16 are new" in said
    words = ["max_train_steps=4", "cache_latents=false", "cache_text_embeddings=false"]
    run_training(train_config(large, tmp_path / "uncached", *words), [])
    assert losses(tmp_path / "second") == pytest.approx(losses(tmp_path / "uncached"), rel=1e-5)


def test_a_damaged_cache_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    run_training(train_config(dataset, tmp_path / "first", "max_train_steps=1"), [])
    for kind, word in (("texts", "check=false"), ("latents", "check=true")):
        damaged = next((dataset / CACHE_DIR).glob(f"{kind}-*"))
        damaged.write_bytes(damaged.read_bytes()[:-100])
        words = train_arguments(dataset, tmp_path / kind, "max_train_steps=1", word)
        assert main(["train", *words]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith(f"riffusion train: {damaged}: is of another size than written")


def test_a_refused_start_leaves_no_run_folder(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    run_training(train_config(dataset, tmp_path / "first", "max_train_steps=1"), [])
    damaged = next((dataset / CACHE_DIR).glob("texts-*"))
    damaged.write_bytes(b"")
    for run in (tmp_path / "run", tmp_path / "new" / "run"):
        config = train_config(dataset, run, "max_train_steps=1", "tracker=tensorboard")
        with pytest.raises(InputError, match="not a cache, or a damaged one"):
            run_training(config, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "first"]
    damaged.unlink()
    assert (run_training(config, []) / "final").is_dir()


def test_another_text_encoder_gets_a_cache_of_its_own_and_is_told_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    run_training(train_config(dataset, tmp_path / "first", "max_train_steps=1"), [])
    first = next((dataset / CACHE_DIR).glob("texts-*"))
    capsys.readouterr()
    run_training(train_config(dataset, tmp_path / "second", "max_train_steps=1", "seed=7"), [])
    assert f"note: {first}" in capsys.readouterr().out
    assert files(dataset).count("texts.safetensors") == 2
    assert first.exists()


def test_previews_and_the_final_model_have_the_text_encoder_that_is_not_needed_for_a_step(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    words = ["max_train_steps=2", "preview.every_steps=1", "preview.num_prompts=1", "preview.num_inference_steps=1"]
    run = run_training(train_config(dataset, tmp_path / "run", *words), [])
    assert len(list(run.glob("previews/step-*/*.wav"))) == 2
    assert (run / "final" / "text_encoder" / "model.safetensors").is_file()


@pytest.mark.two_ranks
def test_two_ranks_fill_the_caches_that_one_process_fills(tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "dataset")
    words = train_arguments(other, tmp_path / "run", "max_train_steps=2", "train_batch_size=2")
    said = run_ranks(lambda: main(["train", *words, "cache_only=true"]), tmp_path / "log")
    run_ranks(lambda: main(["train", *words]), tmp_path / "log-of-training")
    dataset = write_dataset(tmp_path / "another")
    run_training(train_config(dataset, tmp_path / "none", "cache_only=true"), [])
    assert "encode captions: 16/16" in said[0], "the first rank's share of 25 rows in groups of 8"
    alone = run_training(train_config(dataset, tmp_path / "alone", "max_train_steps=2", "resume=never"), [])
    assert losses(tmp_path / "run") == pytest.approx(losses(alone), rel=1e-3)
    assert files(other) == ["latents.safetensors", "texts.safetensors"]
    for path in (other / CACHE_DIR).iterdir():
        assert path.read_bytes() == (dataset / CACHE_DIR / path.name).read_bytes()


@pytest.mark.two_ranks
def test_what_one_rank_meets_ends_both_and_none_waits_for_the_other(tmp_path: Path) -> None:
    def meet_a_problem() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        rank = PartialState(cpu=True).process_index

        def work() -> None:
            if rank == 1:
                raise InputError("the slice has no finite latents")

        try:
            run_together(work)
        except InputError as error:
            print(error)

    assert run_ranks(meet_a_problem, tmp_path / "log") == ["the slice has no finite latents\n"] * 2


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_rows_that_are_held_on_the_device_are_those_that_are_read_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    monkeypatch.setattr("riffusion_train.training.caches._FIRST_STRETCH", 8)  # two steps, then as many as there are
    dataset = write_dataset(tmp_path / "dataset")
    words = ["max_train_steps=6", f"cache_dtype={dtype}", "method=distill"]
    read = run_training(train_config(dataset, tmp_path / "read", *words), [])
    held = run_training(train_config(dataset, tmp_path / "held", *words, "cache_on_device=true"), [])
    assert losses(held) == losses(read)
    assert "cache_on_device" not in capsys.readouterr().out
    monkeypatch.setattr("riffusion_train.training.step_data.free_bytes", lambda device: 3000)
    few = run_training(train_config(dataset, tmp_path / "few", *words, "cache_on_device=true"), [])
    assert losses(few) == losses(read)
    assert "are more than half of the" in capsys.readouterr().out
