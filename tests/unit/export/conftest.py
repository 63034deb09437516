from pathlib import Path

import pytest
from support.nano import train_config, write_dataset

from riffusion_train.training.run import run_training

LORA = ["method=lora", "method.lora_alpha=8", "max_train_steps=3", "schedule=constant", "optimizer.lr=1e-2"]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("export") / "dataset")


@pytest.fixture(scope="session")
def run(dataset: Path) -> Path:
    words = ["max_train_steps=4", "checkpointing_steps=2", "objective.prediction_type=v_prediction"]
    words += ["preview.every_steps=4", "preview.num_prompts=1", "preview.num_inference_steps=2"]
    return run_training(train_config(dataset, dataset.parent / "run", *words), ["schedule=cosine", *words])


@pytest.fixture(scope="session")
def lora_run(dataset: Path) -> Path:
    return run_training(train_config(dataset, dataset.parent / "lora_run", *LORA), LORA)
