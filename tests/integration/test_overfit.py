"""The whole way proven on eight slices: a model that has seen them often enough gives each back for its caption."""

import json
from pathlib import Path

import numpy as np
from support.nano import train_config, write_dataset

from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.sampling.sampler import Sampler
from riffusion_train.training.run import run_training

WORDS = ["piano", "violin", "flute", "choir", "organ", "guitar", "drums", "harp"]
MODEL = [
    "model.text_hidden_size=32",
    "model.text_intermediate_size=32",
    "model.unet_block_out_channels=[32,32]",
    "model.unet_attention_levels=[true,true]",
]
"""A nano model that looks at the caption at both of its levels."""


def test_training_overfits_eight_slices_and_sampling_gives_each_back_for_its_caption(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", num_train=len(WORDS), num_validation=0, captions=WORDS)
    common = ["train_batch_size=8", "optimizer.beta2=0.99"]
    vae = [
        *("method=vae", "method.train_vae_encoder=true", "method.kl_weight=1e-4", "method.latent_std=0.25"),
        *("max_train_steps=120", "optimizer.lr=5e-3", "ema=none"),
    ]
    stage = run_training(train_config(dataset, tmp_path / "vae", *MODEL, *common, *vae), [])
    unet = [
        *(f"model={stage / 'final'}", "method.train_text_encoder=true", "objective.prediction_type=v_prediction"),
        *("objective.proportion_empty_prompts=0", "max_train_steps=400", "optimizer.lr=3e-3", "ema.decay=0.98"),
        "checkpointing_steps=400",
    ]
    run = run_training(train_config(dataset, tmp_path / "run", *common, *unet), [])

    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-50:]) < 0.1 * np.mean(losses[:5])
    assert sum(nearest_slices(dataset, run / "final")) >= 7


def nearest_slices(dataset: Path, model: Path) -> list[bool]:
    """Return for each slice whether the image sampled for its caption is nearer to it than to every other."""
    table = SpectrogramDataset(open_dataset_folder(dataset), "train")
    images = np.stack([table.image(index).astype(np.float32) for index in range(len(table))])
    sampler = Sampler.load(model, device="cpu", num_inference_steps=8, guidance_scale=1.0)
    found = []
    for index in range(len(table)):
        image = sampler.text_to_audio(table.captions(index)[0], seed=index).image
        sampled = image if image.ndim == 2 else image.mean(axis=2)
        distances = np.square(images - sampled).mean(axis=(1, 2))
        found.append(int(distances.argmin()) == index)
    return found
