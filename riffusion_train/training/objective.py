"""Training objectives: networks that map a batch to a loss, so that one wrapped module trains under any strategy.

A UNet is trained as diffusion models are. A VAE loses by pixels, by a perceptual loss on its images (do edges and texture
agree, not only the levels of pixels), by the features that a music tagger sees in them, and by an adversary, a network that
tells decoded images from real ones. The adversary
is that of VQGAN (Esser, Rombach and Ommer 2021, arXiv:2012.09841) and of the VAE of latent diffusion (Rombach et al. 2022): a
patch discriminator with the hinge loss, which joins in at some step, with a weight that follows the gradients at the
decoder's last layer.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from riffusion_train.audio.mel import mel_filter_bank
from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.listening.embedder import HOP_LENGTH, N_FFT, RATE_HZ, LogMel, Weights, load_tagger
from riffusion_train.training.optimizer import optimizer_tensors, restore_optimizer

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


_SCALES = (1, 2, 4)
"""Sides of the square blocks of pixels whose means the images are compared by."""
_WINDOW_PX = 5
"""Side of the window in which the deviation of a texture is measured."""
_SMALLEST_VARIANCE = 1e-5
"""Added to a variance, in a range of levels from -1 to 1: the root's slope is infinite at zero."""


def perceptual_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Return how different the edges and textures of two batches of images are: a scalar, 0 where they are equal.

    A loss of pixels alone is least for the median of all images that a latent may stand for, which is blurred: partials and
    onsets are wider than they were, and noise, which no latent can hold, becomes an even grey, which sounds dull. So at each
    of three scales the images are compared by two kinds of features that need no pretrained network:

    - differences of neighbours along time and along frequency, as in the gradient difference loss (Mathieu, Couprie and LeCun
      2016, arXiv:1511.05440), which sharpen onsets and partials;
    - the standard deviation in windows of 5 x 5 pixels, the contrast term of the structural similarity (Wang et al. 2003,
      "Multi-scale structural similarity for image quality assessment"), which does not ask where the grains of a noise are
      but how strong they are.

    Args:
        decoded: Images (B, C, H, W) in [-1, 1].
        images: What they should be, of the same shape.
    """
    terms = []
    for one, other in _at_scales(decoded, images):
        for axis in (2, 3):
            terms.append(F.l1_loss(torch.diff(one, dim=axis), torch.diff(other, dim=axis)))
        terms.append(_deviation_loss(one, other))
    return torch.stack(terms).sum() / len(_SCALES)


def texture_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Return how much the strengths of texture of two batches of images differ: the second part of the perceptual loss.

    The first part, on differences of neighbours, is least where noise becomes an even grey, as the mean absolute error is.
    With more weight on this one the decoder draws grains where there was noise, though not the same ones. The deviation is also
    compared of the changes along time and along frequency: grains that are wider than they were deviate as much, but a noise
    that changes more slowly sounds dull.
    """
    terms = []
    for pair in _at_scales(decoded, images):
        terms.append(_deviation_loss(*pair))
        terms += [_deviation_loss(*(torch.diff(image, dim=axis) for image in pair)) for axis in (2, 3)]
    return torch.stack(terms).mean()


def _deviation_loss(one: Tensor, other: Tensor) -> Tensor:
    return F.l1_loss(local_deviation(one), local_deviation(other))


def _at_scales(decoded: Tensor, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for scale in _SCALES:
        one, other = (F.avg_pool2d(image.float(), scale) if scale > 1 else image.float() for image in (decoded, images))
        yield one, other


def local_deviation(images: Tensor) -> Tensor:
    """Return the standard deviation around each pixel, (B, C, H - 4, W - 4), of images (B, C, H, W)."""
    mean = F.avg_pool2d(images, _WINDOW_PX, stride=1)
    # The mean of squares less the square of the mean may fall below zero by rounding.
    variance = (F.avg_pool2d(images.square(), _WINDOW_PX, stride=1) - mean.square()).clamp(min=0)
    return (variance + _SMALLEST_VARIANCE).sqrt()


_TAGGER_BAND_STEP = 6
"""Distance of the positions in frequency at which the tagger's first filters are tried: a sixth of the work."""
_USUAL_GAIN = 150.0
"""What the power of images is multiplied with, of which the loudest pixel is 1: the tagger then sees, over composed music, the
mean level that it sees in the sound."""


class TaggerLoss(nn.Module):
    """How different two batches of images are to a music tagger: a perceptual loss of a pretrained network.

    As LPIPS (Zhang et al. 2018, arXiv:1801.03924) without learned weights: the features of each layer are brought to unit
    length at each position in time, and the squares of their differences are summed. The network is musicnn's for the Million
    Song Dataset, which ships with the package; the judge's embeddings are those of the other one, for MagnaTagATune. The image
    is not made sound: its magnitudes are brought to the tagger's bands and frames, which agrees with what it sees of the sound
    (correlation of the levels .94 with `spectrogram=laptop`).

    Args:
        codec: What the images' pixels mean; of several channels the first colour is heard.
    """

    bands: Tensor
    filters: Tensor

    def __init__(self, codec: SpectrogramConfig) -> None:
        super().__init__()
        self.tagger = load_tagger(Weights.msd, band_step=_TAGGER_BAND_STEP)
        self.register_buffer("bands", _tagger_bands(codec), persistent=False)  # (n_mels, bins)
        self.register_buffer("filters", LogMel().filters, persistent=False)  # (bins, 96)
        self.exponent = 1 / codec.power
        self.frames_per_px = codec.hop_length / codec.rate_hz * RATE_HZ / HOP_LENGTH

    def forward(self, decoded: Tensor, images: Tensor) -> Tensor:
        """Return the distance, a scalar, of decoded images (B, C, H, W) in [-1, 1] and what they should be."""
        with torch.no_grad():
            target = self.tagger.features(self.log_mel(images))
        terms = []
        for one, other in zip(self.tagger.features(self.log_mel(decoded)), target, strict=True):  # (B, channels, T)
            terms.append((F.normalize(one, dim=1) - F.normalize(other, dim=1)).square().sum(dim=1).mean())
            # How much there is of each feature over the whole clip, wherever it is: textures, which no latent can hold.
            pooled, wanted = one.mean(dim=2), other.mean(dim=2)
            terms.append((F.normalize(pooled, dim=1) - F.normalize(wanted, dim=1)).square().sum(dim=1).mean())
        return torch.stack(terms).mean()

    def log_mel(self, images: Tensor) -> Tensor:
        """Return what the tagger would see of the sound of images (B, C, H, W): (B, T, 96)."""
        intensity = (
            ((1 - images[:, 0].float()) / 2).clamp(0, 1).flip(1)
        )  # (B, H, W), 1 is loudest, the lowest band first
        magnitudes = intensity.pow(self.exponent).mT @ self.bands  # (B, W, bins)
        frames = round(images.shape[3] * self.frames_per_px)
        magnitudes = F.interpolate(magnitudes.mT, size=frames, mode="linear").mT  # (B, T, bins)
        return torch.log10(10_000 * _USUAL_GAIN * (magnitudes.square() @ self.filters) + 1)


def _tagger_bands(codec: SpectrogramConfig) -> Tensor:
    """Return the matrix from mel magnitudes of a codec to magnitudes at the tagger's frequencies, (n_mels, bins).

    Magnitudes are linear between the centres of two bands. That of a band is divided by its width, since its filter sums.
    """
    bins_hz = np.linspace(0, RATE_HZ / 2, N_FFT // 2 + 1)
    low, high, mels = (np.log10(1 + hz / codec.mel_corner_hz) for hz in (codec.f_min_hz, codec.f_max_hz, bins_hz))
    position = np.clip((mels - low) / (high - low) * (codec.n_mels + 1) - 1, 0, codec.n_mels - 1)
    nearness = np.clip(1 - np.abs(position[None] - np.arange(codec.n_mels)[:, None]), 0, None)  # (n_mels, bins)
    filters = mel_filter_bank(
        codec.n_fft, codec.rate_hz, codec.n_mels, codec.f_min_hz, codec.f_max_hz, codec.mel_corner_hz
    )
    widths = filters.sum(dim=0)
    return torch.from_numpy(nearness.astype(np.float32)) * (widths.mean() / widths)[:, None]


_LARGEST_WEIGHT = 1e4
_SMALLEST_GRADIENT = 1e-4
_GROUP_CHANNELS = 8
"""Channels of a group of the group norms."""
_WEIGHT_PREFIX, _OPTIMIZER_PREFIX = "weight.", "optimizer."

Mean = Callable[[Tensor], Tensor]
"""From a tensor to its mean over all ranks, on every rank."""


class PatchDiscriminator(nn.Sequential):
    """Scores overlapping patches of images (B, C, H, W): above zero is real (Isola et al. 2017, arXiv:1611.07004).

    The norms are group norms: with batch norms the score of an image would depend on the others in its batch, and so on how
    many processes share it.

    Args:
        in_channels: Channels of the images.
        channels: Channels of the first layer; each further one has twice as many, up to eight times.
        layers: Convolutions that halve the image. With three, a patch is 70 pixels wide.
        seed: Its weights are a function of it.
    """

    def __init__(self, in_channels: int, channels: int, layers: int, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__(*_discriminator_layers(in_channels, channels, layers))
            for module in self:
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, 0.0, 0.02)


def _discriminator_layers(in_channels: int, channels: int, layers: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(in_channels, channels, 4, stride=2, padding=1)
    yield nn.LeakyReLU(0.2)
    width = channels
    for layer in range(1, layers + 1):
        wider = channels * min(2**layer, 8)
        yield nn.Conv2d(width, wider, 4, stride=2 if layer < layers else 1, padding=1, bias=False)
        yield nn.GroupNorm(max(1, wider // _GROUP_CHANNELS), wider)
        yield nn.LeakyReLU(0.2)
        width = wider
    yield nn.Conv2d(width, 1, 4, padding=1)


class Adversary:
    """A discriminator with its optimizer, its weight in the VAE's loss, and all of its state.

    In every step of an active adversary, `loss` is called once for each forward pass, and `update` once after the VAE's
    weights were changed. The weight is that of the step before, so that it is the same in all forward passes of all ranks.

    Args:
        network: The discriminator, on the device that it computes on; the same weights on every rank.
        lr: Its learning rate.
        weight: What the weight that follows from the gradients is multiplied with.
        start_step: Before this step the VAE is trained without it, and it is not trained either.
    """

    def __init__(self, network: nn.Module, *, lr: float, weight: float, start_step: int) -> None:
        self.network = network
        self.start_step = start_step
        self.last: dict[str, Tensor] = {}
        """The newest figures for the log; empty before it is active."""
        self._factor = weight
        self._weight = torch.zeros((), device=next(network.parameters()).device)
        self._names = [name for name, _ in network.named_parameters()]
        self._optimizer = torch.optim.AdamW(network.parameters(), lr=lr, betas=(0.5, 0.9), weight_decay=0.0)
        self._active = False
        self._pairs: list[tuple[Tensor, Tensor]] = []  # real and decoded images of each forward pass, (B, C, H, W)
        self._gradients: list[tuple[Tensor, Tensor]] = []  # of the reconstruction's loss and of its own

    def begin(self, step: int) -> None:
        """Begin a step: forget what a forward pass outside of training has left."""
        self._active = step >= self.start_step
        self._pairs, self._gradients = [], []

    def loss(self, reconstruction: Tensor, decoded: Tensor, images: Tensor, last_layer: Tensor) -> Tensor:
        """Return what is added to the loss of a forward pass: a scalar, 0 before the adversary is active.

        Args:
            reconstruction: The loss of the reconstruction, a scalar with a graph.
            decoded: Decoded images (B, C, H, W) in [-1, 1], with a graph.
            images: The real ones.
            last_layer: The weight of the decoder's last layer.
        """
        if not self._active:
            return torch.zeros_like(reconstruction)
        score, slope = self._fool(decoded)
        (of_reconstruction,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
        (of_score,) = torch.autograd.grad(decoded, last_layer, grad_outputs=slope.to(decoded.dtype), retain_graph=True)
        self._pairs.append((images.detach().float(), decoded.detach().float()))
        self._gradients.append((of_reconstruction.float(), of_score.float()))
        # The value of the score with the gradient that is known already: the discriminator is passed through once.
        passed_on = (decoded.float() * slope).sum()
        return self._weight * (score + passed_on - passed_on.detach())

    def update(self, mean: Mean) -> None:
        """Train the discriminator on the images of the step, and set the weight of the next one. All ranks join."""
        if not self._active:
            return
        count = len(self._pairs)
        losses = []
        for real, decoded in self._pairs:
            with _without_autocast(real.device):
                # Hinge loss (Lim and Ye 2017, arXiv:1705.02894), halved as in VQGAN.
                loss = 0.5 * (F.relu(1 - self.network(real)).mean() + F.relu(1 + self.network(decoded)).mean())
                (loss / count).backward()
            losses.append(loss.detach())
        for weight in self.network.parameters():
            assert weight.grad is not None  # every layer takes part in every score
            weight.grad = mean(weight.grad)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        # Esser et al., equation 7: the gradient of both losses at the last layer gets the same norm.
        norms = [mean(torch.stack(parts).mean(dim=0)).norm() for parts in zip(*self._gradients, strict=True)]
        self._weight = self._factor * (norms[0] / (norms[1] + _SMALLEST_GRADIENT)).clamp(max=_LARGEST_WEIGHT)
        self.last = {"discriminator_loss": mean(torch.stack(losses).mean()), "adversarial_weight": self._weight}
        self._active = False
        self._pairs, self._gradients = [], []

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the weights and moments by name, and plain JSON data."""
        moments, groups = optimizer_tensors(self._optimizer, self._names)
        tensors = {_WEIGHT_PREFIX + name: weight.detach() for name, weight in self.network.named_parameters()}
        tensors |= {_OPTIMIZER_PREFIX + name: moment for name, moment in moments.items()}
        return tensors, {"weight": float(self._weight), "optimizer_groups": groups}

    def restore(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        with torch.no_grad():
            for name, weight in self.network.named_parameters():
                weight.copy_(tensors[_WEIGHT_PREFIX + name])
        moments = {
            name.removeprefix(_OPTIMIZER_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(_OPTIMIZER_PREFIX)
        }
        groups = scalars["optimizer_groups"]
        restore_optimizer(self._optimizer, self._names, moments, groups, like_weight=_like)
        self._weight = torch.full_like(self._weight, scalars["weight"])

    def _fool(self, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of images that are not taken for real, a scalar, and its slope, of the images' shape."""
        images = decoded.detach().float().requires_grad_()
        self.network.requires_grad_(False)
        try:
            with _without_autocast(images.device), torch.enable_grad():
                score = -self.network(images).mean()
                (slope,) = torch.autograd.grad(score, images)
        finally:
            self.network.requires_grad_(True)
        return score.detach(), slope


def _like(tensor: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(weight, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def _without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context that the discriminator computes in: fp32, whatever the VAE is trained in."""
    return torch.autocast(device.type, enabled=False)


class VaeObjective(nn.Module):
    """Loss of the VAE: mean absolute error, the KL divergence where the encoder is trained, and what else is asked for.

    Args:
        vae: The autoencoder.
        kl_weight: Weight of the KL divergence, averaged over latents.
        train_encoder: Whether gradients reach the encoder.
        perceptual_weight: Weight of the perceptual loss; 0 leaves it out.
        texture_weight: Weight of the loss on the strength of texture; 0 leaves it out.
        tagger_weight: Weight of the loss on a music tagger's features, which needs a codec; 0 leaves it out.
        codec: What the images' pixels mean.
        adversary: Adds its loss in training; None is none.
    """

    def __init__(
        self,
        vae: Any,
        *,
        kl_weight: float,
        train_encoder: bool,
        perceptual_weight: float = 0.0,
        texture_weight: float = 0.0,
        tagger_weight: float = 0.0,
        codec: SpectrogramConfig | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.kl_weight = kl_weight
        self.train_encoder = train_encoder
        self.perceptual_weight = perceptual_weight
        self.texture_weight = texture_weight
        self.tagger_weight = tagger_weight
        self.tagger_loss = TaggerLoss(codec) if tagger_weight and codec is not None else None
        self.adversary = adversary

    def forward(self, batch: Batch, *, each: bool = False) -> Tensor:
        """Return the mean loss of a batch of `PixelItems`: a scalar; or the mean error of each image (B,)."""
        pixels = batch["pixels"]
        with torch.set_grad_enabled(self.train_encoder and torch.is_grad_enabled()):
            moments = encode_moments(self.vae, pixels)
        latents = sample_moments(moments, batch["latent_noise"])
        if "added_noise" in batch:  # in the scale of the UNet's latents
            latents = latents + batch["added_noise"] / self.vae.config.scaling_factor
        decoded = self.vae.decode(latents).sample
        if each:
            return F.l1_loss(decoded.float(), pixels, reduction="none").mean(dim=(1, 2, 3))
        loss = F.l1_loss(decoded.float(), pixels)
        if self.perceptual_weight:
            loss = loss + self.perceptual_weight * perceptual_loss(decoded, pixels)
        if self.texture_weight:
            loss = loss + self.texture_weight * texture_loss(decoded, pixels)
        if self.tagger_loss is not None:
            with _without_autocast(pixels.device):
                loss = loss + self.tagger_weight * self.tagger_loss(decoded.float(), pixels)
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
