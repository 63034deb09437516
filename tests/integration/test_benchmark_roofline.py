import contextlib
import json
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.roofline import count_step
from riffusion_train.config.compose import compose
from riffusion_train.config.train import TrainConfig
from riffusion_train.model.components import freeze, unfreeze
from riffusion_train.model.loading import make_components
from riffusion_train.training.objective import DiffusionObjective
from riffusion_train.training.tracking import count_flops


def test_the_flops_are_those_that_training_counts_on_real_tensors() -> None:
    config = compose("train", TrainConfig, ["dataset=none", "model=tiny"]).model
    components = make_components(config, seed=0)
    freeze(components)
    unfreeze(components.unet)
    objective = DiffusionObjective(
        components.unet, None, components.vae, components.scheduler, snr_gamma=None, train_text_encoder=False
    )
    size = config.sample_size
    batch = {
        "moments": torch.randn(1, 8, size, size),
        "latent_noise": torch.randn(1, 4, size, size),
        "noise": torch.randn(1, 4, size, size),
        "timestep": torch.tensor([5]),
        "hidden_states": torch.randn(1, 77, config.text_hidden_size),
    }
    step = count_step(2, model=["model=tiny"])
    assert step.flops / 2 == pytest.approx(count_flops(objective, batch, contextlib.nullcontext), rel=2e-3)


def test_every_case_is_counted_and_estimated(tmp_path: Path) -> None:
    assert main(["roofline", "--quick", f"out={tmp_path}"]) == 0
    rows = {row["what"]: row["ours"] for row in json.loads((tmp_path / "roofline.json").read_text())["rows"]}
    products, others = (f"batch 2: {what}" for what in ("products", "bytes of all other operations"))
    assert rows[f"full, checkpointing, {products}"] > rows[f"full, {products}"] > rows[f"LoRA rank 16, {products}"]
    assert rows[f"full, norms in bf16, {others}"] < rows[f"full, {others}"]
    for case in ("full", "LoRA rank 16"):
        h100, compiled = (rows[f"{case}, batch 2: H100 SXM{how}, estimate"] for how in ("", ", compiled"))
        assert rows[f"{case}, batch 2: A100 80 GB, estimate"] < h100 < compiled
