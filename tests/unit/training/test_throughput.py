from contextlib import nullcontext
from typing import Any

import pytest
import torch
from support.models import nano_components
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from riffusion_train.model.components import Components
from riffusion_train.model.lora import add_lora
from riffusion_train.training.tracking import Speedometer, count_flops, peak_flops


def attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}
"""torch counts the attention kernels of GPUs only."""


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


@pytest.mark.parametrize("frozen", ["nothing", "text_encoder", "all but adapters"])
def test_the_count_is_torchs_own_of_both_passes_through_the_real_networks(frozen: str) -> None:
    components = nano_components()
    components.text_encoder.requires_grad_(frozen == "nothing")
    if frozen == "all but adapters":
        components.unet.requires_grad_(False)
        add_lora(components.unet, rank=4, alpha=4.0, seed=0, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    objective = _Whole(components)
    batch = {"noisy": torch.randn(1, 4, 8, 8), "ids": torch.ones(1, 77, dtype=torch.long)}
    batch["image"] = torch.randn(1, 3, 32, 32)
    counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    with counter:
        objective(batch).backward()
    before = torch.get_rng_state()
    objective.zero_grad()
    assert count_flops(objective, batch, nullcontext) == counter.get_total_flops() > 0
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert torch.get_rng_state().equal(before)


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
    monkeypatch.setattr("riffusion_train.training.tracking.time.perf_counter", lambda: now[0])
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


class _Whole(nn.Module):
    def __init__(self, components: Components) -> None:
        super().__init__()
        self.vae = components.vae.requires_grad_(False)
        self.text_encoder = components.text_encoder
        self.unet = components.unet

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            latents = self.vae.encode(batch["image"]).latent_dist.mode()
        states = self.text_encoder(batch["ids"])[0]
        drawn = self.unet(batch["noisy"] + torch.nn.functional.dropout(latents), 500, states).sample
        return drawn.square().mean()
