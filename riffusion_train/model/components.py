"""The parts of a Stable Diffusion 1.5 model in memory, which of their weights are trained, and their fingerprint."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from torch import nn

from riffusion_train.config.spectrogram import SpectrogramConfig

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer


@dataclasses.dataclass
class Components:
    """A whole model in memory, in fp32."""

    vae: "AutoencoderKL"
    text_encoder: "CLIPTextModel"
    unet: "UNet2DConditionModel"
    tokenizer: "CLIPTokenizer"
    scheduler: "SchedulerMixin"
    spectrogram: SpectrogramConfig | None
    """What the images mean, the codec parameters; None where the model does not say."""
    source: str
    """Where the model came from, for messages and cards."""
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The options that it recommends to sample it with, as `read_recommended` returns them."""
    prompts: tuple[str, ...] = ()
    """Prompts that it understands, for `play` to begin with and to suggest; empty where it names none."""
    dataset_fingerprint: str | None = None
    """Of the dataset that it was trained on, where it says so; of several, with commas, where LoRA files were merged."""

    @property
    def downsampling(self) -> int:
        """Pixels of the image for one pixel of the latents, along each side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def latent_shape(self, codec: SpectrogramConfig) -> tuple[int, int, int]:
        """Return the shape of the latents of a codec's images: (channels, height, width)."""
        scale = self.downsampling
        return (int(self.vae.config.latent_channels), codec.n_mels // scale, codec.width_px // scale)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The three networks by name."""
        return {"vae": self.vae, "text_encoder": self.text_encoder, "unet": self.unet}

    def to(self, device: torch.device) -> "Components":
        """Move the networks to `device`."""
        for module in self.modules.values():
            module.to(device)
        return self


def fingerprint(module: nn.Module) -> str:
    """Return a short hash of a network's weights: names, shapes, dtypes and values."""
    return hash_weights(sorted(module.state_dict().items()))


def hash_weights(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return the `fingerprint` of a network with these weights, which are given in the order of their names."""
    digest = xxhash.xxh3_128()
    for name, tensor in weights:
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def freeze(components: Components) -> None:
    """Make every weight of the model a constant, and put its networks into evaluation mode."""
    for module in components.modules.values():
        module.requires_grad_(False)
        module.eval()


def unfreeze(module: nn.Module) -> None:
    """Make every weight of a network trainable, and put it into training mode."""
    module.requires_grad_(True)
    module.train()
