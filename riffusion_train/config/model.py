"""Which model: where its weights come from, and the sizes of one that is built with random weights."""

import dataclasses
import enum


class ModelName(enum.Enum):
    """Where the weights come from."""

    pretrained = "pretrained"
    """Load `path`: a Hugging Face hub id, a diffusers folder, or a single `.safetensors` file."""
    random = "random"
    """Build the Stable Diffusion 1.5 architecture at the sizes given here, with random weights."""


@dataclasses.dataclass
class ModelConfig:
    """The model to start from. The sizes are used by `random` only."""

    name: ModelName = ModelName.pretrained
    """Whether to load or to build the model."""
    path: str | None = None
    """Hub id, folder or file of the weights; or a run, or a LoRA, to go on from. `model=PATH` is short for this."""
    base: str | None = None
    """With a LoRA as `path`: the model that it is for; null is the one that its run was started from."""
    revision: str | None = None
    """Revision of a hub id."""
    sample_size: int = 64
    """Height and width of the latents in pixels."""
    vae_block_out_channels: list[int] = dataclasses.field(default_factory=lambda: [128, 256, 512, 512])
    """Channels of each VAE level; every level but the last halves the image."""
    vae_layers_per_block: int = 2
    """Residual layers of a VAE level."""
    vae_norm_num_groups: int = 32
    """Groups of the VAE's group norms."""
    latent_channels: int = 4
    """Channels of the latents."""
    unet_block_out_channels: list[int] = dataclasses.field(default_factory=lambda: [320, 640, 1280, 1280])
    """Channels of each UNet level."""
    unet_layers_per_block: int = 2
    """Residual layers of a UNet level."""
    unet_attention_levels: list[bool] = dataclasses.field(default_factory=lambda: [True, True, True, False])
    """Which UNet levels have self-attention and cross-attention to the text."""
    unet_attention_head_dim: int = 8
    """Attention heads of the UNet (diffusers keeps this misleading name for SD 1.x)."""
    unet_norm_num_groups: int = 32
    """Groups of the UNet's group norms."""
    text_hidden_size: int = 768
    """Width of the text encoder, and of the UNet's cross-attention."""
    text_intermediate_size: int = 3072
    """Width of the text encoder's feed-forward layers."""
    text_num_hidden_layers: int = 12
    """Layers of the text encoder."""
    text_num_attention_heads: int = 12
    """Attention heads of the text encoder."""
