"""Text to audio: clips of the model's own length."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.noise import initial_noise
from riffusion_train.sampling.requests import TextRequest

if TYPE_CHECKING:
    from riffusion_train.sampling.clip import Clip
    from riffusion_train.sampling.sampler import Sampler

_FADE_S = 0.005


def make(sampler: "Sampler", requests: Sequence[TextRequest], report: StepReport | None = None) -> "Iterator[Clip]":
    """Yield the clips of requests, which are denoised together."""
    if not requests:
        return
    codec = sampler.codec
    for request, image in zip(requests, pictures(sampler, requests, report), strict=True):
        wav = codec.decode(image, quality=sampler.quality, seed=request.seed)
        yield sampler.clip(request, image, fade_edges(wav, codec.rate_hz))


def pictures(sampler: "Sampler", requests: Sequence[TextRequest], report: StepReport | None = None) -> list[np.ndarray]:
    """Return the pictures of requests: uint8 (height, width) for mono, (height, width, 3) for stereo."""
    engine = sampler.engine
    conditions = [
        engine.texts.condition(request.prompt, request.negative_prompt, request.guidance_scale) for request in requests
    ]
    seeds = [request.seed for request in requests]
    noise = torch.stack([initial_noise(seed, engine.latent_shape) for seed in seeds])
    latents = engine.denoise(noise, lambda row, _: conditions[row], seeds=seeds, report=report)
    return [engine.decode(row) for row in latents]


def fade_edges(audio: np.ndarray, rate_hz: int) -> np.ndarray:
    """Fade the first and last 5 ms of (channels, samples) in and out: a picture begins and ends in the middle of sound."""
    length = min(round(_FADE_S * rate_hz), audio.shape[1] // 2)
    gain = np.ones(audio.shape[1], dtype=np.float32)
    gain[:length] = np.sin(np.linspace(0, np.pi / 2, length)) ** 2
    gain[-length:] = gain[:length][::-1]
    return audio * gain
