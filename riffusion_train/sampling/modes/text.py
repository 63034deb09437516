"""Text to audio: clips of the model's own length."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from riffusion_train.sampling.modes.base import ClipData, ModeOptions, Request
from riffusion_train.sampling.noise import initial_noise
from riffusion_train.sampling.pipeline import Pipeline

_FADE_S = 0.005


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRequest(Request):
    """One clip from a prompt; with an empty prompt and a guidance of 1 it is unconditional."""

    mode = "text"


def make(pipeline: Pipeline, requests: Sequence[TextRequest], options: ModeOptions) -> Iterator[ClipData]:
    """Yield the clips of requests, which are denoised together."""
    codec = pipeline.codec
    for request, image in zip(requests, make_images(pipeline, requests, options), strict=True):
        wav = codec.decode(image, quality=options.quality, seed=request.seed)
        yield ClipData(image, fade_edges(wav, codec.rate_hz))


def make_images(pipeline: Pipeline, requests: Sequence[TextRequest], options: ModeOptions) -> list[np.ndarray]:
    """Return the images of requests: uint8 (n_mels, width) for mono, (n_mels, width, 3) for stereo."""
    conditions = [
        pipeline.texts.condition(request.prompt, request.negative_prompt, request.guidance_scale)
        for request in requests
    ]
    seeds = [request.seed for request in requests]
    noise = torch.stack([initial_noise(seed, pipeline.latent_shape) for seed in seeds])  # (B, C, h, w)
    latents = pipeline.denoise(
        noise, conditions, num_inference_steps=options.num_inference_steps, seeds=seeds, report=options.report
    )
    return [pipeline.decode(row) for row in latents]


def fade_edges(audio: np.ndarray, rate_hz: int) -> np.ndarray:
    """Fade the first and last 5 ms of (channels, samples): an image begins and ends in the middle of sound."""
    length = min(round(_FADE_S * rate_hz), audio.shape[1] // 2)
    gain = np.ones(audio.shape[1], dtype=np.float32)
    gain[:length] = np.sin(np.linspace(0, np.pi / 2, length)) ** 2
    gain[-length:] = gain[:length][::-1]
    return audio * gain
