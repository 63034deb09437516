"""The sampler: from prompts to clips, with one loaded model."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from riffusion_train.audio.codec import make_codec
from riffusion_train.config.sample import Quality, SchedulerName
from riffusion_train.config.spectrogram import Channels, load_preset
from riffusion_train.model.adapt import freeze
from riffusion_train.model.components import Components, fingerprint, load_components
from riffusion_train.sampling.clip import Clip
from riffusion_train.sampling.denoise import StepReport, denoise, encode_prompts, initial_noise, make_scheduler
from riffusion_train.sampling.settings import Settings

ASSUMED_PRESET = "riffusion_v1"
"""What a model's pictures are taken to mean where it does not say."""

_FADE_S = 0.005


class Sampler:
    """Makes clips with one model.

    Args:
        components: The model.
        device: Where to run; the model is moved there.
        scheduler: The solver.
        num_inference_steps: Its steps.
        guidance_scale: Classifier-free guidance.
        quality: How long to search for the phase of the sound.
    """

    def __init__(
        self,
        components: Components,
        *,
        device: torch.device | str = "cpu",
        scheduler: SchedulerName = SchedulerName.dpmsolver,
        num_inference_steps: int = 20,
        guidance_scale: float = 7.0,
        quality: Quality = Quality.normal,
    ) -> None:
        self.components = components.to(torch.device(device))
        self.device = torch.device(device)
        self.scheduler = make_scheduler(scheduler, components.scheduler)
        self.scheduler_name = scheduler.value
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.quality = quality
        self.assumed_spectrogram = components.spectrogram is None
        self.codec = make_codec(components.spectrogram or load_preset(ASSUMED_PRESET))

    @classmethod
    def load(cls, source: str | Path, *, device: str | None = None, **options: object) -> Self:
        """Load a model from a diffusers folder, a single file or a hub id; `options` as in the constructor."""
        components = load_components(str(source))
        freeze(components)
        return cls(components, device=device or best_device(), **options)  # type: ignore[arg-type]

    @functools.cached_property
    def model_fingerprint(self) -> str:
        """Hash of the UNet's weights: the identity that clips carry."""
        return fingerprint(self.components.unet)

    def text_to_audio(self, prompt: str, *, negative_prompt: str = "", seed: int = 0) -> Clip:
        """Make one clip from a prompt."""
        return next(self.generate([(prompt, negative_prompt, seed)]))

    def generate(
        self, wanted: Sequence[tuple[str, str, int]], *, batch_size: int = 4, report: StepReport | None = None
    ) -> Iterator[Clip]:
        """Make clips from (prompt, negative prompt, seed), `batch_size` at a time, in order."""
        for start in range(0, len(wanted), batch_size):
            batch = wanted[start : start + batch_size]
            for (prompt, negative, seed), image in zip(batch, self._images(batch, report), strict=True):
                audio = self.codec.decode(image, quality=self.quality.value, seed=seed)
                faded = _fade_edges(audio, self.codec.rate_hz)
                yield Clip(image, faded, self.codec.config, self._settings(prompt, negative, seed))

    def _images(self, batch: Sequence[tuple[str, str, int]], report: StepReport | None) -> list[np.ndarray]:
        """Return the pictures of a batch: uint8 (height, width) for mono, (height, width, 3) for stereo."""
        parts = self.components
        prompts, negatives, seeds = ([item[field] for item in batch] for field in range(3))
        latents = denoise(
            parts.unet,
            self.scheduler,
            torch.stack([initial_noise(seed, self._latent_shape()) for seed in seeds]).to(self.device),  # type: ignore[arg-type]
            encode_prompts(parts.tokenizer, parts.text_encoder, prompts),  # type: ignore[arg-type]
            encode_prompts(parts.tokenizer, parts.text_encoder, negatives),  # type: ignore[arg-type]
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
            report=report,
        )
        return [self._to_picture(pixels) for pixels in self._decode(latents)]

    @torch.no_grad()
    def _decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to pictures (B, 3, H, W) in [-1, 1]; one at a time, so that memory stays flat."""
        vae = self.components.vae
        return torch.cat([vae.decode(row[None] / vae.config.scaling_factor).sample for row in latents]).clamp(-1, 1)

    def _to_picture(self, pixels: Tensor) -> np.ndarray:
        levels = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu()  # (H, W, 3)
        if self.codec.config.channels is not Channels.mono:
            return levels.numpy()
        return levels.float().mean(dim=2).round().to(torch.uint8).numpy()

    def _latent_shape(self) -> tuple[int, int, int]:
        config, scale = self.codec.config, self.components.downsampling
        return (self.components.unet.config.in_channels, config.n_mels // scale, config.width_px // scale)

    def _settings(self, prompt: str, negative: str, seed: int) -> Settings:
        return Settings(
            prompt=prompt,
            negative_prompt=negative,
            seed=seed,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
            scheduler=self.scheduler_name,
            quality=self.quality.value,
            model=self.components.source,
            model_fingerprint=self.model_fingerprint,
            assumed_spectrogram=self.assumed_spectrogram,
        )


def _fade_edges(audio: np.ndarray, rate_hz: int) -> np.ndarray:
    """Fade the first and last 5 ms of (channels, samples) in and out: a picture begins and ends in the middle of sound."""
    length = min(round(_FADE_S * rate_hz), audio.shape[1] // 2)
    gain = np.ones(audio.shape[1], dtype=np.float32)
    gain[:length] = np.sin(np.linspace(0, np.pi / 2, length)) ** 2
    gain[-length:] = gain[:length][::-1]
    return audio * gain


def best_device() -> str:
    """Return the fastest device of this machine: `cuda`, `mps` or `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
