"""Build the Stable Diffusion 1.5 architecture at any size with random weights."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from riffusion_train.config.model import ModelConfig, ModelName
from riffusion_train.model.components import Components, load_components
from riffusion_train.model.tokenizer import END_ID, MAX_LENGTH, START_ID, VOCABULARY_SIZE, build_tokenizer
from riffusion_train.runtime.errors import InputError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

_FIRST_LOG_VARIANCE = -4.0


def make_components(config: ModelConfig, seed: int) -> Components:
    """Load or build the model that `config` describes.

    Raises:
        InputError: If it names no weights, or weights that cannot be used.
    """
    if config.name is ModelName.pretrained:
        if not config.path:
            raise InputError("model=pretrained needs model.path=…: a hub id, a diffusers folder or a .safetensors file")
        return load_components(config.path, config.revision)
    with _seeded(seed):
        return Components(
            vae=_build_vae(config),
            text_encoder=_build_text_encoder(config),
            unet=_build_unet(config),
            tokenizer=build_tokenizer(),
            scheduler=build_scheduler(),
            spectrogram=None,
            source=f"random weights, seed {seed}",
        )


def build_scheduler(prediction_type: str = "epsilon") -> "PNDMScheduler":
    """Return the noise schedule that Stable Diffusion 1.5 ships."""
    from diffusers import PNDMScheduler

    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def _build_vae(config: ModelConfig) -> "AutoencoderKL":
    from diffusers import AutoencoderKL

    levels = len(config.vae_block_out_channels)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.vae_block_out_channels),
        layers_per_block=config.vae_layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.vae_norm_num_groups,
        sample_size=config.sample_size * 2 ** (levels - 1),
        scaling_factor=0.18215,
    )
    _open_bottleneck(vae)
    return vae


def _open_bottleneck(vae: "AutoencoderKL") -> None:
    """Let a new VAE's latents through its narrowest place from the first step.

    At random the two 1 x 1 convolutions there can be nearly singular, and noise of variance one drowns latents that are still
    small; a channel lost in this way is not found again for hundreds of steps.
    """
    channels = int(vae.config.latent_channels)
    with torch.no_grad():
        for convolution in (vae.quant_conv, vae.post_quant_conv):
            torch.nn.init.dirac_(convolution.weight)
            torch.nn.init.zeros_(convolution.bias)
        vae.quant_conv.bias[channels:] = _FIRST_LOG_VARIANCE


def _build_text_encoder(config: ModelConfig) -> "CLIPTextModel":
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=config.text_hidden_size,
            intermediate_size=config.text_intermediate_size,
            projection_dim=config.text_hidden_size,
            num_hidden_layers=config.text_num_hidden_layers,
            num_attention_heads=config.text_num_attention_heads,
            max_position_embeddings=MAX_LENGTH,
            hidden_act="quick_gelu",
            bos_token_id=START_ID,
            eos_token_id=END_ID,
            pad_token_id=1,
        )
    )


def _build_unet(config: ModelConfig) -> "UNet2DConditionModel":
    from diffusers import UNet2DConditionModel

    attention = config.unet_attention_levels
    if len(attention) != len(config.unet_block_out_channels):
        raise InputError("model.unet_attention_levels and model.unet_block_out_channels must have the same length")
    return UNet2DConditionModel(
        sample_size=config.sample_size,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)),
        block_out_channels=tuple(config.unet_block_out_channels),
        layers_per_block=config.unet_layers_per_block,
        cross_attention_dim=config.text_hidden_size,
        attention_head_dim=config.unet_attention_head_dim,
        norm_num_groups=config.unet_norm_num_groups,
    )


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Initialise from `seed` and leave torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
