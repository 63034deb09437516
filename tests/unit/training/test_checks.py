import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.nano import NANO_SPECTROGRAM, train_config, write_dataset
from torch.utils.data import DataLoader, Dataset

from riffusion_train.config.train import MixedPrecision
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.caches import _with_plain_errors
from riffusion_train.training.checks import (
    check_codec,
    check_config,
    check_optimizer,
    check_precision,
    check_scaler,
    check_slices,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


def with_rows(folder: Path, change: object) -> Path:
    """Write a dataset whose training rows were changed."""
    write_dataset(folder)
    file = next((folder / "data").glob("train-*"))
    table = pq.read_table(file)
    rows = [change(index, row) for index, row in enumerate(table.to_pylist())]  # type: ignore[operator]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    stats = json.loads((folder / "stats.json").read_text())
    for shard in stats["shards"]:
        shard["bytes"] = (folder / "data" / shard["name"]).stat().st_size
    (folder / "stats.json").write_text(json.dumps(stats))
    return folder


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["optimizer.lr=0"], r"optimizer\.lr=0\.0: must be above 0"),
        (["optimizer.lr=-1e-5"], r"optimizer\.lr=-1e-05: must be above 0"),
        (["optimizer.lr=nan"], r"optimizer\.lr=nan: must be above 0"),
        (["max_train_steps=0"], "max_train_steps=0: must be 1 or more"),
        (["gradient_accumulation_steps=0"], "gradient_accumulation_steps=0: must be 1 or more"),
        (["checkpointing_steps=0"], "checkpointing_steps=0: must be 1 or more"),
        (["optimizer.beta2=1"], r"optimizer\.beta2=1\.0: must be from 0 to below 1"),
        (["objective.snr_gamma=0"], r"objective\.snr_gamma=0\.0: must be above 0, or null"),
        (["objective.proportion_empty_prompts=2"], "must be from 0 to 1"),
        (["captions.tag_dropout=1"], r"captions\.tag_dropout=1\.0: must be from 0 to below 1"),
        (["captions.keep_first_tags=-1"], r"captions\.keep_first_tags=-1: must be 0 or more"),
        (["captions.num_variants=0"], r"captions\.num_variants=0: must be 1 or more"),
        (["captions.weights=[0,1]"], r"captions\.weights=\[0\.0, 1\.0\]: the first must be above 0"),
        (["captions.weights=[1,-1]"], "the others 0 or more"),
        (["captions.weights=[1,inf]"], "the others 0 or more"),
        (["captions=tags", "method=vae"], "trains on images alone; take captions=default"),
        (["method=vae", "method.train_text_encoder=true"], "take method=full or lora"),
        (["method.text_encoder_lr=1e-5"], r"add method\.train_text_encoder=true"),
        (["validation=none", "validation.keep_best=true"], r"need validation\.every_steps"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(dataset: Path, words: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        check_config(train_config(dataset, Path("run"), *words))
    assert "\n" not in str(caught.value)


def test_the_settings_of_every_preset_are_in_range(dataset: Path) -> None:
    check_config(train_config(dataset, Path("run")))
    check_config(train_config(dataset, Path("run"), "captions=tags_with_trigger"))
    for words in (["objective=zero_snr"], ["optimizer=prodigy"], ["validation=early_stopping"], ["method=lora"]):
        check_config(train_config(dataset, Path("run"), *words))


def test_a_precision_that_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="fp16 needs a GPU; take bf16 or no"):
        check_precision(MixedPrecision.fp16, CPU)
    with pytest.raises(InputError, match="no gradient scaler for this device"):
        check_scaler(MixedPrecision.fp16, None)
    check_precision(MixedPrecision.bf16, CPU)
    # What an older card, such as a 2080 Ti, answers.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an older card")
    with pytest.raises(InputError, match="an older card does not compute in bf16; take mixed_precision=fp16"):
        check_precision(MixedPrecision.bf16, torch.device("cuda"))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["optimizer=adamw_8bit"], "no 8-bit kernels for cpu; take optimizer=adamw"),
        (["optimizer=schedule_free"], "take ema=none"),
        (["optimizer=schedule_free", "ema=none", "schedule=cosine"], "take schedule=warmup or constant"),
        (
            ["optimizer=prodigy", "method.train_text_encoder=true", "method.text_encoder_lr=0.5"],
            r"take method\.text_encoder_lr=null",
        ),
    ],
)
def test_an_optimizer_that_cannot_work_is_refused(dataset: Path, words: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        check_optimizer(train_config(dataset, Path("run"), *words), CPU)


def test_an_optimizer_that_is_not_installed_is_refused(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs prodigyopt; pip install riffusion-train\[optimizers\]"):
        check_optimizer(train_config(dataset, Path("run"), "optimizer=prodigy"), CPU)


@pytest.mark.parametrize("caption", [[], ["   "], ["fine", ""], None])
def test_missing_captions_are_counted_and_one_is_named(tmp_path: Path, caption: list[str] | None) -> None:
    folder = with_rows(tmp_path / "d", lambda index, row: row | ({"caption": caption} if index in (4, 9) else {}))
    table = SpectrogramDataset(open_dataset_folder(folder), "train")
    with pytest.raises(InputError, match=r"2 of 12 slices have an empty caption or none, such as 4\.wav"):
        check_slices(table, captions=True)
    check_slices(table, captions=False)


def test_images_of_another_size_are_refused_by_name(tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "o", spectrogram=dataclasses.replace(NANO_SPECTROGRAM, width_px=16))
    wrong = pq.read_table(next((other / "data").glob("train-*"))).to_pylist()[0]["image"]
    folder = with_rows(tmp_path / "d", lambda index, row: row | ({"image": wrong} if index == 3 else {}))
    with pytest.raises(InputError, match=r"the image of 3\.wav at 0\.00 s is 16 x 32, spectrogram\.json says 32 x 32"):
        check_slices(SpectrogramDataset(open_dataset_folder(folder), "train"), captions=True)


def test_a_dataset_without_slices_to_train_on_is_refused(tmp_path: Path) -> None:
    folder = open_dataset_folder(write_dataset(tmp_path / "d", num_train=0))
    with pytest.raises(InputError, match="the split 'train' has no slices"):
        SpectrogramDataset(folder, "train")


def test_a_dataset_of_another_codec_is_refused_by_field_unless_allowed(dataset: Path) -> None:
    folder, config = open_dataset_folder(dataset), train_config(dataset, Path("run"))
    own = dataclasses.replace(NANO_SPECTROGRAM, name="another name", f_max_hz=9000.0, hop_length=410)
    check_codec(config, folder, None)
    check_codec(config, folder, dataclasses.replace(NANO_SPECTROGRAM, name="another name"))
    with pytest.raises(InputError, match=r"hop_length is 400, not 410, f_max_hz is 8000\.0, not 9000\.0"):
        check_codec(config, folder, own)
    with pytest.raises(InputError, match=r"differs from spectrogram_preset=hifi: .*n_mels is 32, not 512"):
        check_codec(train_config(dataset, Path("run"), "spectrogram_preset=hifi"), folder, None)
    with pytest.raises(InputError, match="unknown spectrogram preset 'low'"):
        check_codec(train_config(dataset, Path("run"), "spectrogram_preset=low"), folder, None)
    check_codec(train_config(dataset, Path("run"), "allow_other_spectrogram=true"), folder, own)


class Damaged(Dataset[int]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        raise InputError(f"row {index} is damaged; make it anew")


def test_a_damaged_image_that_a_loader_process_finds_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^row 0 is damaged; make it anew$"):
        list(_with_plain_errors(iter(DataLoader(Damaged(), num_workers=1))))
