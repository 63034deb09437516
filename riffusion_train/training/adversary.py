"""The adversary of a VAE: a network that tells decoded images from real ones, and what the VAE loses by it.

After VQGAN (Esser, Rombach and Ommer 2021, arXiv:2012.09841) and the VAE of latent diffusion (Rombach et al. 2022): a patch
discriminator with the hinge loss, which joins in at some step, with a weight that follows the gradients at the decoder's last
layer.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from riffusion_train.training.optimizer import optimizer_tensors, restore_optimizer

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
