"""Latent consistency distillation: a model learns to make in a few steps what it makes in many, with the guidance built in.

After Luo et al. 2023 (arXiv:2310.04378), algorithm 1, and LCM-LoRA (arXiv:2311.05556). The way from noise to image is divided
into a few dozen points. A consistency function says from any point what lies at its end; it is trained to say the same from two
neighbouring points of one way. The first point is a noised image. The teacher, which is the model as it was, goes from there to
the second with one step of DDIM and with guidance. What the function says there is the target, by the average of its weights.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from riffusion_train.config.denoising import SchedulerName
from riffusion_train.config.train import MethodConfig, MethodName
from riffusion_train.model.components import Components
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.objective import Batch, DiffusionObjective

SAMPLING: Mapping[str, Any] = {
    "scheduler": SchedulerName.lcm,
    "num_inference_steps": 4,
    "guidance_scale": 1.0,
}
"""How a distilled model is sampled."""

_SIGMA_DATA = 0.5
_TIMESTEP_SCALING = 10.0
"""Of the boundary condition, as in diffusers' `LCMScheduler`: at timestep 0 the function is its input."""

_MOST_STEPS = 1000
"""Timesteps of Stable Diffusion's noise schedule."""

Weights = Mapping[str, Tensor]


class DistillationObjective(DiffusionObjective):
    """Loss of latent consistency distillation.

    Args:
        unet: The student. The teacher is what it is now: its trainable weights are copied.
        text_encoder: Computes the captions' hidden states; None where every batch has them.
        vae: Encodes images where the batch has no cached moments.
        noise_scheduler: diffusers' `DDPMScheduler`; its `prediction_type` says what the UNet predicts.
        empty_states: Hidden states of the empty caption, (1, 77, D), for guidance.
        guidance: Strength of guidance where a batch does not say it.
        num_steps: Points on the way from noise to image.
        huber_c: Difference below which the loss is quadratic.
        ema: diffusers' `EMAModel` over the UNet's trainable weights, which targets are computed with; without one they are
            computed with the weights as they are (Song and Dhariwal 2023, arXiv:2310.14189).
    """

    def __init__(
        self,
        unet: Any,
        text_encoder: Any,
        vae: Any,
        noise_scheduler: Any,
        *,
        empty_states: Tensor,
        guidance: float,
        num_steps: int,
        huber_c: float,
        ema: Any | None,
    ) -> None:
        super().__init__(unet, text_encoder, vae, noise_scheduler, snr_gamma=None, train_text_encoder=False)
        self._empty_states = empty_states
        self._guidance = guidance
        self._num_steps = num_steps
        self._huber_c = huber_c
        self._ema = ema
        trained = {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}
        self._trained = list(trained)
        self._teacher = {name: weight.detach().clone() for name, weight in trained.items()}

    def forward(self, batch: Batch, *, each: bool = False) -> Tensor:
        """Return the mean loss of a batch of `LatentItems`: a scalar; or the loss of each item (B,).

        The timestep of an item chooses the point that it starts from.
        """
        latents, states = self._latents(batch), self._hidden_states(batch)  # (B, C, h, w), (B, 77, D)
        starts, ends = self._points(batch["timestep"])  # (B,) each
        noisy = self.noise_scheduler.add_noise(latents, batch["noise"], starts)
        guidance = batch.get("guidance_scale", torch.full((len(latents),), self._guidance, device=latents.device))
        with torch.no_grad():
            nearer = self._teacher_step(noisy, starts, ends, states, guidance)
            target = self._image(self._target_weights(), nearer, ends, states)
        image = self._image({}, noisy, starts, states)
        # Pseudo-Huber distance (Charbonnier et al. 1997): sqrt(d^2 + c^2) - c.
        distance = (image.float() - target.float()).square() + self._huber_c**2
        losses = (distance.sqrt() - self._huber_c).mean(dim=(1, 2, 3))  # (B,)
        return losses if each else losses.mean()

    def _points(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the point of the way that each timestep belongs to, and the next one nearer to the image."""
        total = int(self.noise_scheduler.config.num_train_timesteps)
        skipped = total // self._num_steps
        starts = (timesteps * self._num_steps // total + 1) * skipped - 1
        return starts, (starts - skipped).clamp(min=0)

    def _target_weights(self) -> Weights:
        return {} if self._ema is None else dict(zip(self._trained, self._ema.shadow_params, strict=True))

    def _teacher_step(self, noisy: Tensor, starts: Tensor, ends: Tensor, states: Tensor, guidance: Tensor) -> Tensor:
        """Go from one point to the next with the teacher: a guided step of DDIM (Song et al. 2020, arXiv:2010.02502)."""
        empty = self._empty_states.to(states).expand_as(states)
        both = functional_call(
            self.unet,
            self._teacher,
            (torch.cat([noisy, noisy]), torch.cat([starts, starts]), torch.cat([states, empty])),
        ).sample.float()
        conditional, unconditional = both.chunk(2)
        output = unconditional + guidance.view(-1, 1, 1, 1) * (conditional - unconditional)
        image, noise = self._image_and_noise(output, noisy, starts)
        alpha, sigma = self._levels(ends)
        return alpha * image + sigma * noise

    def _image(self, weights: Weights, noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """Return the consistency function, with some of the student's weights replaced: latents (B, C, h, w)."""
        output = functional_call(self.unet, dict(weights), (noisy, timesteps, states)).sample
        image, _ = self._image_and_noise(output.float(), noisy, timesteps)
        scaled = (timesteps * _TIMESTEP_SCALING).view(-1, 1, 1, 1)
        skip = _SIGMA_DATA**2 / (scaled.square() + _SIGMA_DATA**2)
        return skip * noisy + scaled / (scaled.square() + _SIGMA_DATA**2).sqrt() * image

    def _image_and_noise(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image and the noise that a prediction means, of its shape."""
        alpha, sigma = self._levels(timesteps)
        if self.noise_scheduler.config.prediction_type == "v_prediction":
            return alpha * noisy - sigma * output, sigma * noisy + alpha * output
        return (noisy - sigma * output) / alpha, output

    def _levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return how much of the image and of the noise there is at each timestep, (B, 1, 1, 1) each."""
        squares = self.noise_scheduler.alphas_cumprod.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)
        return squares.sqrt(), (1 - squares).sqrt()


def say_distilled(components: Components, config: MethodConfig) -> Components:
    """Return a model that says that it is distilled, where it is: its scheduler, and the sampling that it recommends.

    Args:
        components: The model, or one without its weights.
        config: How it was trained.
    """
    if config.name is not MethodName.distill:
        return components
    from diffusers import LCMScheduler

    scheduler = LCMScheduler.from_config(
        dict(components.scheduler.config),  # type: ignore[attr-defined]
        clip_sample=False,
        original_inference_steps=config.distill_num_steps,
    )
    return dataclasses.replace(components, scheduler=scheduler, sampling=SAMPLING)


def check_distillation(config: MethodConfig) -> None:
    """Refuse values of the `distill_…` keys that cannot work.

    Raises:
        InputError: For the first of them; the message names the key.
    """
    guidance = config.distill_guidance
    if len(guidance) != 2 or not 1 <= guidance[0] <= guidance[1]:
        raise InputError(
            f"method.distill_guidance={guidance}: give two strengths from 1 on, the lower first, such as [7,7]"
        )
    if not 2 <= config.distill_num_steps <= _MOST_STEPS:
        raise InputError(f"method.distill_num_steps={config.distill_num_steps}: must be from 2 to {_MOST_STEPS}")
    if config.distill_huber_c <= 0:
        raise InputError(f"method.distill_huber_c={config.distill_huber_c}: must be above 0")
    if config.train_text_encoder:
        raise InputError("method.train_text_encoder=true: method=distill trains the UNet alone; leave it out")
