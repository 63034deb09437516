"""The measured training runs: ours, and diffusers' recipe."""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from riffusion_train.cli.model import quieten_libraries
from riffusion_train.config.compose import compose
from riffusion_train.config.train import TrainConfig
from riffusion_train.model.loading import make_components
from riffusion_train.training.run import build_job, start_run
from riffusion_train.training.tracking import peak_memory_bytes

MODEL = [
    "model=tiny", "model.sample_size=16", "model.vae_block_out_channels=[12,28,52,52]",
    "model.vae_norm_num_groups=4", "model.vae_layers_per_block=2",
    "model.unet_block_out_channels=[32,64,128,128]", "model.unet_layers_per_block=2",
    "model.unet_attention_levels=[true,true,true,false]", "model.text_hidden_size=64",
    "model.text_intermediate_size=256", "model.text_num_hidden_layers=4",
]  # fmt: skip
"""SD 1.5 at a tenth of its width, on 128 x 128 images: the frozen parts take half the UNet's FLOPs, as at full size."""

BATCH_SIZE = 4


def arguments(dataset: str, run: str, method: str, steps: int) -> list[str]:
    """Return the command line of one of our runs, with the settings that diffusers' script has by default."""
    return [
        f"dataset={dataset}", f"run={run}", *MODEL, f"train_batch_size={BATCH_SIZE}", "schedule=constant",
        f"max_train_steps={steps}", "ema=none", "tracker=files",
        *(f"{key}={str(method == 'cached').lower()}" for key in ("cache_latents", "cache_text_embeddings")),
        "objective.proportion_empty_prompts=0", "num_threads=1", "dataloader_num_workers=0", f"logging_steps={steps}",
    ]  # fmt: skip


def ours(dataset: str, method: str, steps: int) -> list[float]:
    """Train with the project's trainer; return the CPU time at the start of each step."""
    with tempfile.TemporaryDirectory() as folder:
        given = arguments(dataset, f"{folder}/run", method, steps)
        config = compose("train", TrainConfig, given)
        job = build_job(config, given, *start_run(config))
        marks: list[float] = []
        batches = job.learning.batches
        learning = dataclasses.replace(job.learning, batches=lambda first: _marked(batches(first), marks))
        dataclasses.replace(job, learning=learning).trainer().train()
    return marks


def _marked(batches: Iterator[dict[str, Tensor]], marks: list[float]) -> Iterator[dict[str, Tensor]]:
    while True:
        marks.append(time.process_time())
        try:
            yield next(batches)
        except StopIteration:
            return


def diffusers_recipe(dataset: str, steps: int) -> list[float]:
    """Train as diffusers' `train_text_to_image.py` does by default, reimplemented; return the same times as `ours`.

    VAE and text encoder run in every step, images are opened and normalized for every step, and the loss is gathered and read
    in every step; plain AdamW, no EMA.
    """
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler

    torch.set_num_threads(1)
    config = compose("train", TrainConfig, arguments(dataset, "none", "diffusers", steps))
    accelerator = Accelerator(cpu=True)
    parts = make_components(config.model, seed=0)
    scheduler = DDPMScheduler.from_config(parts.scheduler.config)
    vae, text_encoder, unet = parts.vae.requires_grad_(False), parts.text_encoder.requires_grad_(False), parts.unet
    unet.train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    schedule = get_scheduler("constant", optimizer, num_warmup_steps=500, num_training_steps=steps)
    loader = torch.utils.data.DataLoader(_Images(dataset, parts.tokenizer), batch_size=BATCH_SIZE, shuffle=True)
    unet, optimizer, loader, schedule = accelerator.prepare(unet, optimizer, loader, schedule)
    marks: list[float] = []
    while len(marks) <= steps:
        for batch in _marked(iter(loader), marks):
            with accelerator.accumulate(unet):
                latents = vae.encode(batch["pixels"]).latent_dist.sample() * vae.config.scaling_factor
                noise = torch.randn_like(latents)
                timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),)).long()
                noisy = scheduler.add_noise(latents, noise, timesteps)
                states = text_encoder(batch["input_ids"], return_dict=False)[0]
                prediction = unet(noisy, timesteps, states, return_dict=False)[0]
                loss = F.mse_loss(prediction.float(), noise.float(), reduction="mean")
                accelerator.gather(loss.repeat(BATCH_SIZE)).mean().item()
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(unet.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            if len(marks) > steps:
                break
        else:
            marks.pop()  # the end of an epoch is not a step
    return marks


class _Images(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Images and captions, read with `datasets` and preprocessed as by the script."""

    def __init__(self, dataset: str, tokenizer: Any) -> None:
        import datasets

        files = [str(path) for path in sorted(Path(dataset).glob("data/train-*"))]
        self.rows = datasets.load_dataset("parquet", data_files=files, split="train")
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.rows[index]
        image = row["image"].convert("RGB")
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)
        tokens = self.tokenizer(
            row["caption"][0], max_length=77, padding="max_length", truncation=True, return_tensors="pt"
        )
        return {"pixels": pixels.contiguous(), "input_ids": tokens.input_ids[0]}


def measure(method: str, dataset: str, steps: int) -> dict[str, Any]:
    """Run one method; return the CPU seconds of each step, and the peak memory of this process.

    Args:
        method: `cached` or `uncached` for ours, or `diffusers`.
        dataset: Path of a dataset folder.
        steps: Number of training steps.
    """
    quieten_libraries()
    marks = diffusers_recipe(dataset, steps) if method == "diffusers" else ours(dataset, method, steps)
    seconds = [after - before for before, after in itertools.pairwise(marks[1:])]
    return {"seconds": seconds, "peak_bytes": peak_memory_bytes(torch.device("cpu"))}
