from contextlib import nullcontext

import pytest
import torch
from support.models import nano_components
from torch import Tensor, nn

from riffusion_train.training.flops import count_flops, peak_flops
from riffusion_train.training.speed import Speedometer


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8, bias=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        rows = self.linear(batch["rows"])[:, None]
        return nn.functional.scaled_dot_product_attention(rows, rows, rows).square().mean()


def test_the_flops_of_one_example_are_those_of_its_products() -> None:
    network = Attending()
    linear, attention = 2 * 16 * 8 * 8, 2 * (2 * 16 * 16 * 8)
    counted = count_flops(network, {"rows": torch.randn(4, 16, 8)}, nullcontext)
    # No gradient of the input is asked for; the kernel's backward pass computes the scores a second time.
    assert counted == 2 * linear + attention + attention * 5 / 2
    assert network.linear.weight.grad is None


def test_work_done_twice_for_memory_is_not_counted() -> None:
    unet = nano_components().unet
    objective = _Denoising(unet)
    batch = {"noisy": torch.randn(2, 4, 8, 8), "states": torch.randn(2, 77, 16)}
    plain = count_flops(objective, batch, nullcontext)
    unet.enable_gradient_checkpointing()
    unet.train()
    assert count_flops(objective, batch, nullcontext) == plain > 0
    assert any(getattr(module, "gradient_checkpointing", False) for module in unet.modules())


@pytest.mark.parametrize(
    ("gpu", "precision", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312.0),
        ("NVIDIA GeForce RTX 4090", "fp16", 165.2),
        ("Tesla T4", "fp16", 65.0),
    ],
)
def test_the_peak_of_a_known_gpu_is_its_data_sheets(gpu: str, precision: str, tflops: float) -> None:
    assert peak_flops(gpu, precision) == tflops * 1e12


@pytest.mark.parametrize(
    ("gpu", "precision"),
    [
        (None, "bf16"),
        ("NVIDIA H100 80GB HBM3", "no"),
        ("Tesla T4", "bf16"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"),
        ("NVIDIA GeForce RTX 3080 Ti", "bf16"),
        ("Some Other Card", "bf16"),
    ],
)
def test_a_peak_that_is_not_known_is_not_guessed(gpu: str | None, precision: str) -> None:
    assert peak_flops(gpu, precision) is None


def test_pauses_do_not_count_and_waiting_does(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("riffusion_train.training.speed.time.perf_counter", lambda: now[0])
    speed = Speedometer(torch.device("cpu"), "bf16", images_per_step=6, world_size=2, clip_s=5.0)
    speed.flops_per_image = 1e12
    speed.peak_flops = 1e15
    with speed.paused():
        now[0] += 30
    with speed.waiting():
        now[0] += 1
    now[0] += 3
    figures = speed.read(steps=10)
    assert (figures.pop("peak_memory_gib") or 0) > 0.05
    assert figures == pytest.approx(
        {
            "step_s": 0.4,
            "images_per_s": 15.0,
            "audio_s_per_s": 75.0,
            "tflops_per_s": 7.5,
            "mfu_percent": 0.75,
            "data_wait_percent": 25.0,
        }
    )
    now[0] += 1
    assert speed.read(steps=1)["data_wait_percent"] == 0


class _Denoising(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.unet(batch["noisy"], 500, batch["states"]).sample.square().mean()
