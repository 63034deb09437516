"""Stable Diffusion 1.5's architecture at any size: with random weights, or empty on the meta device."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from riffusion_train.config.model import ModelConfig
from riffusion_train.model.components import Components
from riffusion_train.model.tokenizer import build_tokenizer
from riffusion_train.runtime.clip_bpe import END_ID, MAX_TOKENS, START_ID, VOCABULARY_SIZE
from riffusion_train.runtime.errors import InputError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel


_FIRST_LOG_VARIANCE = -4.0


def build_components(config: ModelConfig, seed: int) -> Components:
    """Build the model that `config` gives the sizes of, with random weights, a function of the seed."""
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


def scheduler_class(config: Mapping[str, Any]) -> Any:
    """Return the class of diffusers that a scheduler's config is read with.

    Every solver takes its noise schedule from the one that Stable Diffusion 1.5 ships, but the points that a distilled model
    was trained at are known to `LCMScheduler` alone.
    """
    from diffusers import LCMScheduler, PNDMScheduler

    return LCMScheduler if config.get("_class_name") == LCMScheduler.__name__ else PNDMScheduler


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
    """Initialise the two 1 x 1 convolutions around the latents as identities, so that a new VAE learns from the first step.

    With random weights they can be nearly singular, and sampling noise of variance one hides latents that are still small; a
    channel that is lost in this way stays unused for hundreds of steps.
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
            max_position_embeddings=MAX_TOKENS,
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


def trained_scheduler(scheduler: Any, *, prediction_type: str, rescale_betas_zero_snr: bool) -> Any:
    """Return a scheduler whose config says what was trained, so that samplers use the same target and schedule.

    A terminal signal-to-noise ratio of zero (Lin et al. 2024, arXiv:2305.08891) needs DDIM's scheduler: the one that Stable
    Diffusion 1.5 ships has no such key. Its timesteps are `trailing`, since a sampler that leaves out the last timestep never
    starts from the pure noise that was trained.

    Args:
        scheduler: The base model's diffusers scheduler.
        prediction_type: `epsilon` or `v_prediction`.
        rescale_betas_zero_snr: Whether the last timestep is pure noise.
    """
    from diffusers import DDIMScheduler

    config = dict(scheduler.config)
    was_rescaled = bool(config.get("rescale_betas_zero_snr"))
    if rescale_betas_zero_snr:
        return DDIMScheduler.from_config(
            config,
            prediction_type=prediction_type,
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            clip_sample=False,
        )
    changes: dict[str, Any] = {"prediction_type": prediction_type}
    if was_rescaled:
        changes |= {"rescale_betas_zero_snr": False, "timestep_spacing": "leading"}
    return type(scheduler).from_config(config, **changes)


def build_skeleton(
    configs: Mapping[str, Mapping[str, Any]], tokenizer: Any, scheduler: Any, **details: Any
) -> Components:
    """Build the three networks on the meta device from their configs; `details` are other fields of `Components`."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with empty_networks():
        return Components(
            vae=AutoencoderKL.from_config(dict(configs["vae"])),
            text_encoder=CLIPTextModel(CLIPTextConfig.from_dict(dict(configs["text_encoder"]))),
            unet=UNet2DConditionModel.from_config(dict(configs["unet"])),
            tokenizer=tokenizer,
            scheduler=scheduler,
            **details,
        )


@contextlib.contextmanager
def empty_networks() -> Iterator[None]:
    """Build networks on the meta device, without initial weights: what draws them there imports torch's compiler."""
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    """Leaves tensors as they are that were to be filled with first weights."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func in _DRAWING or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else options["tensor"]
        if func is torch.arange:  # of CLIP's positions; on the meta device it imports sympy
            return func(*args, **{**options, "device": "cpu"})
        return func(*args, **options)


_DRAWING = (torch.Tensor.normal_, torch.Tensor.uniform_)


def materialise_buffers(module: nn.Module) -> None:
    """Replace the non-persistent buffers, which no checkpoint holds, by real ones: CLIP's position ids."""
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.is_meta:
                if name != "position_ids":
                    raise RuntimeError(f"no value known for the buffer {name} of {type(owner).__name__}")
                owner.register_buffer(name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False)
