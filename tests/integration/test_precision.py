"""What a step in bf16 computes in which precision: products in bf16; weights, averages, moments and losses in fp32."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.nano import train_config, write_dataset
from torch.utils._python_dispatch import TorchDispatchMode

from riffusion_train.training.run import build_job, start_run

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "convolution", "convolution_backward", "_scaled_dot_product")


class Products(TorchDispatchMode):
    """Collects the dtypes of the factors of all products, of both passes."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        if name in PRODUCTS or name.startswith(PRODUCTS[-1]):
            # Attention keeps the logarithm of its sums, a number a query, in fp32: (B, heads, L), after the factors.
            factors = [one for one in args[:4] if isinstance(one, torch.Tensor) and one.ndim > 1]
            self.dtypes.setdefault(name, set()).update(factor.dtype for factor in factors)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.mark.parametrize(
    "words",
    [
        ["objective=min_snr"],
        ["cache_latents=false", "cache_text_embeddings=false", "objective=zero_snr"],
        ["method=lora", "method.train_text_encoder=true"],
        ["method=vae", "method.train_vae_encoder=true", "method.perceptual_weight=0.5"],
        ["method=distill"],
    ],
    ids=lambda words: " ".join(words),
)
def test_autocast_leaves_no_product_in_fp32_and_everything_kept_is(
    dataset: Path, tmp_path: Path, words: list[str]
) -> None:
    config = train_config(
        dataset, tmp_path / "run", "max_train_steps=2", "mixed_precision=bf16", "train_batch_size=2", *words
    )
    job = build_job(config, [], *start_run(config))
    losses: list[torch.Tensor] = []
    job.learning.objective.register_forward_hook(lambda module, inputs, loss: losses.append(loss))
    trainer = job.trainer()
    with Products() as products:
        trainer.train()
    assert {"mm", "convolution_backward"} <= products.dtypes.keys()
    assert {name: dtypes for name, dtypes in products.dtypes.items() if dtypes != {torch.bfloat16}} == {}
    moments = [
        value
        for state in job.learning.optimizer.state.values()
        for value in state.values()
        if value.ndim  # not the count
    ]
    kept = [*trainer.parameters, *moments, *losses, *job.learning.ema.shadow_params]
    assert len(moments) == 2 * len(trainer.parameters) and losses
    assert {value.dtype for value in kept} == {torch.float32}


@pytest.mark.parametrize(("precision", "fused"), [("bf16", False), ("no", True)])
def test_attention_is_fused_except_in_bf16_on_a_cpu(dataset: Path, tmp_path: Path, precision: str, fused: bool) -> None:
    words = [f"mixed_precision={precision}", "train_batch_size=2", "method.train_text_encoder=true"]
    config = train_config(dataset, tmp_path / "run", *words)
    job = build_job(config, [], *start_run(config))
    processors = {type(processor).__name__ for processor in job.components.unet.attn_processors.values()}
    assert processors == {"AttnProcessor2_0" if fused else "AttnProcessor"}
    batch = next(iter(job.learning.batches(0)))
    with Products() as products, job.distribution.autocast():
        job.learning.objective(batch).backward()
    assert any(name.startswith(PRODUCTS[-1]) for name in products.dtypes) == fused
