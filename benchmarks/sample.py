"""Sampling compared with the original's method, diffusers' pipeline and torchaudio's inversion, with one model."""

import dataclasses
import gc
from typing import Any

import numpy as np
import torch

from benchmarks.original import OriginalCodec
from benchmarks.report import Goal, Row
from benchmarks.timing import alternate
from riffusion_train.config.compose import compose
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.config.train import TrainConfig
from riffusion_train.model.components import Components, freeze
from riffusion_train.model.loading import make_components
from riffusion_train.sampling.sampler import Sampler
from riffusion_train.sampling.sources import initial_noise, make_seed_image, slerp

PROMPT = "solo piano with soft drums"
WALK_PROMPTS = ("solo piano with soft drums", "church bells")
_NARROW_MODEL = (
    "model=tiny",
    "model.sample_size=64",
    "model.vae_block_out_channels=[8,16,32,32]",
    "model.unet_block_out_channels=[32,64,64,64]",
    "model.unet_attention_levels=[false,true,true,false]",
)
"""SD 1.5's architecture, but so narrow that a clip takes seconds on a CPU: 512 x 512 images, 64 x 64 latents."""


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Measure a clip from a prompt, and the clips of a walk, in CPU seconds of one thread; the methods alternate.

    Args:
        quick: Two steps on narrow images, to show that it runs.
        max_clips: Repeats.
    """
    torch.set_num_threads(1)
    repeats = 1 if quick else max_clips or 3
    steps = 2 if quick else 20
    components = _components(width_px=128 if quick else 512)
    sampler = Sampler(components, num_inference_steps=steps)
    pipeline = _pipeline(components)
    codec = OriginalCodec()
    length = 1 if quick else 4
    rows = [
        *_text_rows(sampler, pipeline, codec, steps, repeats, warm=not quick),
        *_walk_rows(sampler, pipeline, codec, steps, repeats, length),
    ]
    del pipeline
    gc.collect()
    return rows


def _text_rows(
    sampler: Sampler, pipeline: Any, codec: OriginalCodec, steps: int, repeats: int, *, warm: bool
) -> list[Row]:
    def ours(seed: int) -> np.ndarray:
        return sampler.text_to_audio(PROMPT, seed=seed).audio

    def original(seed: int) -> np.ndarray:
        image = pipeline(
            PROMPT,
            height=sampler.codec.config.n_mels,
            width=sampler.codec.config.width_px,
            num_inference_steps=steps,
            guidance_scale=7.0,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        return codec.decode(np.asarray(image.convert("L")))

    if warm:
        ours(0)  # numba compiles once
    seconds = alternate({"ours": ours, "original": original}, repeats)
    what = f"a clip from a prompt, {steps} steps"
    return [Row(what, "CPU s", seconds["ours"], seconds["original"], Goal.ratio_at_most, 0.7, median=True)]


def _walk_rows(
    sampler: Sampler, pipeline: Any, codec: OriginalCodec, steps: int, repeats: int, length: int
) -> list[Row]:
    """Measure the clips of a walk; the original encodes both prompts and the seed image again for every clip."""
    seed_image = make_seed_image("beats", sampler.codec)
    count = length + 1

    def ours(seed: int) -> np.ndarray:
        return sampler.walk(WALK_PROMPTS, clips=length, seed=seed, seed_image="beats", strength=0.75).audio

    def original(seed: int) -> np.ndarray:
        sounds = []
        for index in range(count):
            image = _riffuse(pipeline, seed_image, index / length, seed, steps)
            sounds.append(codec.decode(image))
        return np.concatenate(sounds, axis=1)

    seconds = alternate({"ours": ours, "original": original}, repeats)
    rates = {name: [count / value for value in values] for name, values in seconds.items()}
    what = f"a walk of {count} clips from a seed image, {steps} steps, strength 0.75"
    return [Row(what, "clips/CPU s", rates["ours"], rates["original"], Goal.ratio_at_least, 1.3, median=True)]


@torch.no_grad()
def _riffuse(pipeline: Any, seed_image: np.ndarray, alpha: float, seed: int, steps: int) -> np.ndarray:
    """Return the image of one clip by the method of the original's `riffuse`: encode all, interpolate, image to image."""

    def encode(text: str) -> torch.Tensor:
        ids = pipeline.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        return pipeline.text_encoder(ids.input_ids)[0]

    start, end, unconditional = encode(WALK_PROMPTS[0]), encode(WALK_PROMPTS[1]), encode("")
    states = torch.cat([unconditional, torch.lerp(start, end, alpha)])
    pixels = torch.from_numpy(np.repeat(seed_image[None], 3, axis=0)).float()[None] / 127.5 - 1
    latents = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
    shape = tuple(latents.shape[1:])
    noise = slerp(initial_noise(seed, shape), initial_noise(seed + 1, shape), alpha)[None]
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps[steps - int(steps * 0.75) :]
    scheduler.set_begin_index(steps - len(timesteps))
    latents = scheduler.add_noise(latents, noise, timesteps[:1])
    for timestep in timesteps:
        scaled = scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
        without, conditioned = pipeline.unet(scaled, timestep, states).sample.chunk(2)
        latents = scheduler.step(without + 7.0 * (conditioned - without), timestep, latents).prev_sample
    decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample[0].clamp(-1, 1)
    return ((decoded + 1) * 127.5).round().to(torch.uint8).float().mean(0).to(torch.uint8).numpy()


def _components(width_px: int) -> Components:
    components = make_components(compose("train", TrainConfig, ["dataset=x", *_NARROW_MODEL]).model, seed=0)
    components.spectrogram = dataclasses.replace(load_preset("riffusion_v1"), width_px=width_px)
    freeze(components)
    return components


def _pipeline(components: Components) -> Any:
    """Return diffusers' pipeline with the same networks and, like ours, DPM-Solver++ with Karras noise levels."""
    import diffusers

    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(
        dict(components.scheduler.config), algorithm_type="dpmsolver++", use_karras_sigmas=True
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=components.vae,
        text_encoder=components.text_encoder,
        tokenizer=components.tokenizer,
        unet=components.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
