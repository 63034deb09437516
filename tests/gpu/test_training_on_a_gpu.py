"""Training on a GPU: batches copied on a stream of their own, rows held on the device, and the losses of the CPU."""

import json
from pathlib import Path

import pytest
import torch
from support.nano import train_config, write_dataset

from riffusion_train.training.run import run_training
from riffusion_train.training.step_data import BatchCopy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_batches_that_are_copied_beside_other_work_hold_what_they_held() -> None:
    copy = BatchCopy(torch.device("cuda"))
    work = torch.randn(4096, 4096, device="cuda")
    sums = []
    for number in range(20):
        batch = {"noise": torch.full((1024, 1024), float(number)).pin_memory()}
        moved = copy(batch)["noise"]
        for _ in range(5):
            work = work @ work / 4096
        sums.append(moved.sum())
    assert [float(one) for one in sums] == [number * 2.0**20 for number in range(20)]


@pytest.mark.parametrize("words", [[], ["cache_on_device=true"], ["compile_regions=true"]])
def test_a_gpu_trains_to_the_losses_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    run_training(train_config(dataset, tmp_path / "gpu", "max_train_steps=5", *words), [])
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    run_training(train_config(dataset, tmp_path / "cpu", "max_train_steps=5"), [])
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=2e-3)


def test_bf16_and_fp16_train_to_nearly_the_same_losses(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    ends = {}
    for precision in ("no", "bf16", "fp16"):
        words = [f"mixed_precision={precision}", "max_train_steps=5"]
        run_training(train_config(dataset, tmp_path / precision, *words), [])
        ends[precision] = losses(tmp_path / precision)
    assert ends["bf16"] == pytest.approx(ends["no"], rel=0.05)
    assert ends["fp16"] == pytest.approx(ends["no"], rel=0.05)
