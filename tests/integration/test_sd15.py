import dataclasses
import json
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.nano import write_dataset

from riffusion_train.config.compose import compose
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.config.train import TrainConfig
from riffusion_train.training.run import run_training

UNET_PARAMETERS = 859_520_964


@pytest.mark.slow
def test_stable_diffusion_at_its_true_size_takes_two_lora_steps(tmp_path: Path) -> None:
    preset = dataclasses.replace(load_preset("riffusion_v1"), name="narrow", width_px=64)  # an eighth of the work
    dataset = write_dataset(tmp_path / "dataset", num_train=2, num_validation=0, spectrogram=preset)
    words = [f"dataset={dataset}", f"run={tmp_path / 'run'}", "model=sd15_random", "method=lora"]
    words += ["max_train_steps=2", "train_batch_size=1", "schedule=constant", "logging_steps=1", "optimizer.lr=1e-3"]
    run = run_training(compose("train", TrainConfig, words), words)
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0.1 for loss in losses)
    adapters = load_file(run / "final" / "pytorch_lora_weights.safetensors")
    assert sum(tensor.numel() for tensor in adapters.values()) == 3_188_736  # rank 16 on 128 attention projections
    assert any(tensor.abs().max() > 0 for name, tensor in adapters.items() if "lora_B" in name or ".up." in name)


def test_the_preset_has_the_size_of_stable_diffusion() -> None:
    import torch

    from riffusion_train.model.loading import make_components

    config = compose("train", TrainConfig, ["dataset=d", "model=sd15_random"]).model
    with torch.device("meta"):
        components = make_components(dataclasses.replace(config), seed=0)
    assert sum(weight.numel() for weight in components.unet.parameters()) == UNET_PARAMETERS
    assert components.downsampling == 8
    assert components.text_encoder.config.hidden_size == 768
