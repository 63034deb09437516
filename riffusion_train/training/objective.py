"""Training objectives: networks that map a batch to a loss, so that one wrapped module trains under any strategy."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from riffusion_train.training.adversary import Adversary
from riffusion_train.training.perceptual import perceptual_loss

Batch = Mapping[str, Tensor]


class DiffusionObjective(nn.Module):
    """Denoising loss of the latent diffusion model (Rombach et al. 2022), conditioned on captions.

    Args:
        unet: The denoiser.
        text_encoder: Computes the captions' hidden states for the UNet; None where every batch has them.
        vae: Encodes images where the batch has no cached moments; never trained here.
        noise_scheduler: diffusers' `DDPMScheduler`; its `prediction_type` says what the UNet predicts.
        snr_gamma: Min-SNR weighting (Hang et al. 2023, arXiv:2303.09556), or None.
        train_text_encoder: Whether gradients reach the text encoder.
    """

    def __init__(
        self,
        unet: Any,
        text_encoder: Any,
        vae: Any,
        noise_scheduler: Any,
        *,
        snr_gamma: float | None,
        train_text_encoder: bool,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.vae = vae
        self.noise_scheduler = noise_scheduler
        self.snr_gamma = snr_gamma
        self.train_text_encoder = train_text_encoder

    def forward(self, batch: Batch, *, each: bool = False) -> Tensor:
        """Return the mean loss of a batch of `LatentItems`: a scalar.

        Args:
            batch: The batch.
            each: Return the loss of each item instead (B,), without weights, for a measurement that no setting changes.
        """
        latents = self._latents(batch)  # (B, C, h, w), as are noise, noisy latents, prediction and target
        noise, timesteps = batch["noise"], batch["timestep"]  # timesteps (B,)
        # Forward process: z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps (Ho et al. 2020, equation 4). With input
        # perturbation z_t gets more noise than the target contains (Ning et al. 2023, arXiv:2301.11706).
        noisy = self.noise_scheduler.add_noise(latents, batch.get("input_noise", noise), timesteps)
        prediction = self.unet(noisy, timesteps, self._hidden_states(batch)).sample
        loss = F.mse_loss(prediction.float(), self._target(latents, noise, timesteps), reduction="none")
        losses = loss.mean(dim=(1, 2, 3))  # (B,)
        return losses if each else (losses * self._weight(timesteps)).mean()

    def _hidden_states(self, batch: Batch) -> Tensor:
        """Return what the UNet attends to: (B, 77, D)."""
        if "hidden_states" in batch:
            return batch["hidden_states"]
        with torch.set_grad_enabled(self.train_text_encoder and torch.is_grad_enabled()):
            return self.text_encoder(batch["input_ids"]).last_hidden_state

    def _latents(self, batch: Batch) -> Tensor:
        if "moments" in batch:
            moments = batch["moments"]
        else:
            with torch.no_grad():
                moments = encode_moments(self.vae, batch["pixels"])
        return sample_moments(moments, batch["latent_noise"]) * self.vae.config.scaling_factor

    def _target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self.noise_scheduler.config.prediction_type == "v_prediction":
            # v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) z_0 (Salimans and Ho 2022, arXiv:2202.00512).
            return self.noise_scheduler.get_velocity(latents, noise, timesteps)
        return noise  # epsilon prediction

    def _weight(self, timesteps: Tensor) -> Tensor:
        """Return the loss weight of each timestep: min(SNR, gamma) over the SNR that the target itself implies."""
        if self.snr_gamma is None:
            return torch.ones_like(timesteps, dtype=torch.float32)
        from diffusers.training_utils import compute_snr

        # Hang et al. 2023, section 3.4: the loss of z_0 is weighted by min(SNR, gamma), SNR = alpha_bar_t / (1 - alpha_bar_t).
        # For the same error the loss of epsilon is SNR times as large, and that of v SNR + 1 times: hence the divisors. (B,)
        snr = compute_snr(self.noise_scheduler, timesteps)
        clamped = snr.clamp(max=self.snr_gamma)
        if self.noise_scheduler.config.prediction_type == "v_prediction":
            return clamped / (snr + 1)
        return clamped / snr


class VaeObjective(nn.Module):
    """Loss of the VAE: mean absolute error, the KL divergence where the encoder is trained, and what else is asked for.

    Args:
        vae: The autoencoder.
        kl_weight: Weight of the KL divergence, averaged over latents.
        train_encoder: Whether gradients reach the encoder.
        perceptual_weight: Weight of the perceptual loss; 0 leaves it out.
        adversary: Adds its loss in training; None is none.
    """

    def __init__(
        self,
        vae: Any,
        *,
        kl_weight: float,
        train_encoder: bool,
        perceptual_weight: float = 0.0,
        adversary: Adversary | None = None,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.kl_weight = kl_weight
        self.train_encoder = train_encoder
        self.perceptual_weight = perceptual_weight
        self.adversary = adversary

    def forward(self, batch: Batch, *, each: bool = False) -> Tensor:
        """Return the mean loss of a batch of `PixelItems`: a scalar; or the mean error of each image (B,)."""
        pixels = batch["pixels"]
        with torch.set_grad_enabled(self.train_encoder and torch.is_grad_enabled()):
            moments = encode_moments(self.vae, pixels)
        decoded = self.vae.decode(sample_moments(moments, batch["latent_noise"])).sample
        if each:
            return F.l1_loss(decoded.float(), pixels, reduction="none").mean(dim=(1, 2, 3))
        loss = F.l1_loss(decoded.float(), pixels)
        if self.perceptual_weight:
            loss = loss + self.perceptual_weight * perceptual_loss(decoded, pixels)
        if self.adversary is not None:
            loss = loss + self.adversary.loss(loss, decoded, pixels, self.vae.decoder.conv_out.weight)
        if not self.train_encoder:
            return loss
        # KL of N(mean, variance) from N(0, 1), (mean^2 + variance - 1 - log variance) / 2 for each latent (Kingma and Welling
        # 2014, appendix B).
        mean, log_variance = moments.float().chunk(2, dim=1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return loss + self.kl_weight * divergence


def encode_moments(vae: Any, pixels: Tensor) -> Tensor:
    """Encode images (B, 3, H, W) to mean and log-variance (B, 2 * C, h, w), clamped as diffusers does."""
    distribution = vae.encode(pixels).latent_dist
    return torch.cat([distribution.mean, distribution.logvar], dim=1)


def sample_moments(moments: Tensor, noise: Tensor) -> Tensor:
    """Sample latents (B, C, h, w) from moments (B, 2 * C, h, w) with given standard normal noise."""
    mean, log_variance = moments.chunk(2, dim=1)
    return mean + noise * (0.5 * log_variance).exp()
