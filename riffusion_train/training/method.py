"""The method of a run: which weights are trained, with which loss on which items, and what it makes in the end."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from riffusion_train.config.model import ExportFormat
from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.config.train import MethodConfig, MethodName, MixedPrecision, TrainConfig
from riffusion_train.dataset.captions import CaptionDraws
from riffusion_train.dataset.layout import DatasetFolder
from riffusion_train.dataset.order import generator
from riffusion_train.dataset.spectrograms import LatentItems, PixelItems, SpectrogramDataset, make_tokenize
from riffusion_train.model.components import Components, freeze, trained_scheduler, unfreeze
from riffusion_train.model.loading import write_model_files
from riffusion_train.model.lora import Lora, adapter_weights, add_lora, from_peft, lora_scale_alpha
from riffusion_train.model.weights import as_lazy_model
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import remove_partials, written_beside
from riffusion_train.training.checks import check_image_size
from riffusion_train.training.distillation import DistillationObjective, say_distilled
from riffusion_train.training.objective import (
    Adversary,
    DiffusionObjective,
    PatchDiscriminator,
    VaeObjective,
    encode_moments,
)
from riffusion_train.training.step_data import Caches
from riffusion_train.training.validation import HeldOutBatches, HeldOutImages, HeldOutNoise

_MEASURED_SLICES = 256


class FullMethod:
    """`method=full`: all weights of the UNet, and of the text encoder where asked; the base of the other methods.

    Args:
        config: The config of the run.
    """

    trains_on_captions = True
    guidance_range: tuple[float, float] | None = None
    """Lowest and highest strength of guidance that is drawn for a slice, for methods that train with one."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    @property
    def caches_latents(self) -> bool:
        """Whether the run reads its latents from a cache, which a VAE that is trained would outdate."""
        return self.config.cache_latents

    @property
    def caches_texts(self) -> bool:
        """Whether the run reads its hidden states from a cache, which a text encoder that is trained would outdate."""
        return self.config.cache_text_embeddings and not self.config.method.train_text_encoder

    def caption_draws(self) -> CaptionDraws:
        """Return what is drawn about the captions."""
        captions = self.config.captions
        return CaptionDraws(
            seed=self.config.seed,
            proportion_empty_prompts=self.config.objective.proportion_empty_prompts,
            weights=captions.weights,
            shuffle_tags=captions.shuffle_tags,
            keep_first_tags=captions.keep_first_tags,
            tag_dropout=captions.tag_dropout,
            num_variants=captions.num_variants if self.caches_texts else None,
        )

    def main_network(self, components: Components) -> Any:
        """Return the network that takes most of the memory and time of a step."""
        return components.unet

    def make_trainable(self, components: Components) -> None:
        """Choose the weights that are trained, of a model whose weights are all frozen."""
        # Convolutions in this layout are a sixth of the step faster on a CPU, and tensor cores prefer it on a GPU.
        components.unet.to(memory_format=torch.channels_last)
        components.vae.to(memory_format=torch.channels_last)
        self._unfreeze(components)

    def compile(self, objective: nn.Module, components: Components, backend: Any = "inductor") -> nn.Module:
        """Compile the objective, or its regions, in place, so that the names of weights stay; return it.

        Shapes are static: all batches of a run have the same. What has others, such as sampling, runs as it was written.
        """
        if self.config.compile:
            objective.compile(fullgraph=True, dynamic=False, backend=backend)
        if self.config.compile_regions:
            compile_regions(self.main_network(components), backend)
        return objective

    def make_adversary(self, components: Components) -> Adversary | None:
        """Return what the objective is trained against; None for methods without it."""
        return None

    def make_objective(
        self,
        components: Components,
        codec: SpectrogramConfig | None = None,
        adversary: Adversary | None = None,
        ema: Any | None = None,
    ) -> nn.Module:
        """Return the network from batch to loss.

        Args:
            components: The model, with its trainable weights chosen.
            codec: What the images' pixels mean, for losses that ask; those of held-out slices do not.
            adversary: What it is trained against.
            ema: diffusers' `EMAModel` over the trainable weights, where one is kept.
        """
        from diffusers import DDPMScheduler

        return DiffusionObjective(
            components.unet,
            None if self.caches_texts else components.text_encoder,
            components.vae,
            DDPMScheduler.from_config(components.scheduler.config),
            snr_gamma=self.config.objective.snr_gamma,
            train_text_encoder=self.config.method.train_text_encoder,
        )

    def make_items(self, components: Components, dataset: SpectrogramDataset, caches: Caches) -> Dataset[Any]:
        """Return the items of the training split, looked up by address."""
        objective = self.config.objective
        return LatentItems(
            dataset,
            make_tokenize(components.tokenizer),
            moments=caches.moments,
            texts=caches.texts,
            latent_shape=components.latent_shape(dataset.folder.spectrogram),
            seed=self.config.seed,
            num_train_timesteps=int(components.scheduler.config.num_train_timesteps),
            captions=self.caption_draws(),
            noise_offset=objective.noise_offset,
            input_perturbation=objective.input_perturbation,
            timestep_shift=objective.timestep_shift,
            guidance_range=self.guidance_range,
        )

    def make_held_out(
        self, components: Components, dataset: SpectrogramDataset, device: torch.device
    ) -> HeldOutBatches:
        """Return the slices of the validation split as the loss is measured on them."""

        @torch.no_grad()
        def encode(pixels: Tensor) -> Tensor:
            return encode_moments(components.vae, pixels.to(device)).float().cpu()

        @torch.no_grad()
        def encode_text(input_ids: Tensor) -> Tensor:
            text_encoder = components.text_encoder
            return text_encoder(input_ids.to(text_encoder.device)).last_hidden_state.float().cpu()

        return HeldOutNoise(
            dataset,
            self.config.validation.num_slices,
            tokenize=make_tokenize(components.tokenizer),
            encode=encode,
            encode_text=None if self.config.method.train_text_encoder else encode_text,
            latent_shape=components.latent_shape(dataset.folder.spectrogram),
            num_train_timesteps=int(components.scheduler.config.num_train_timesteps),
        )

    def finish(self, components: Components, dataset: SpectrogramDataset, device: torch.device) -> None:
        """Measure what the trained model needs to know about itself."""

    def adapters(
        self, weights: Mapping[str, Tensor], spectrogram: SpectrogramConfig | None, source: str
    ) -> Lora | None:
        """Return the run's adapters from their weights by name; None for methods that train none."""
        return None

    def _unfreeze(self, components: Components) -> None:
        unfreeze(components.unet)
        if self.config.method.train_text_encoder:
            unfreeze(components.text_encoder)


class LoraMethod(FullMethod):
    """`method=lora`: low-rank adapters of the UNet, and of the text encoder where asked."""

    def adapters(
        self, weights: Mapping[str, Tensor], spectrogram: SpectrogramConfig | None, source: str
    ) -> Lora | None:
        """Return the run's adapters from their weights by name."""
        method = self.config.method
        alpha = lora_scale_alpha(rank=method.lora_rank, alpha=method.lora_alpha, use_rslora=method.lora_use_rslora)
        return from_peft(weights, alpha, spectrogram, source)

    def _unfreeze(self, components: Components) -> None:
        method = self.config.method
        options: dict[str, Any] = {
            "rank": method.lora_rank,
            "alpha": method.lora_alpha,
            "use_dora": method.lora_use_dora,
            "use_rslora": method.lora_use_rslora,
            "seed": self.config.seed,
        }
        add_lora(
            components.unet,
            target_modules=method.lora_target_modules,
            target_blocks=method.lora_target_blocks,
            **options,
        )
        if method.train_text_encoder:
            options["key"] = "method.lora_text_encoder_target_modules"
            add_lora(components.text_encoder, target_modules=method.lora_text_encoder_target_modules, **options)


class DistillMethod(LoraMethod):
    """`method=distill`: the UNet, or adapters of it, learn what it makes with guidance in many steps."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        lowest, highest = config.method.distill_guidance
        self.guidance_range = (lowest, highest)

    def make_objective(
        self,
        components: Components,
        codec: SpectrogramConfig | None = None,
        adversary: Adversary | None = None,
        ema: Any | None = None,
    ) -> nn.Module:
        """Return the network from batch to the distance between neighbouring points."""
        from diffusers import DDPMScheduler

        text_encoder, method = components.text_encoder, self.config.method
        with torch.no_grad():
            ids = make_tokenize(components.tokenizer)("")[None].to(text_encoder.device)
            empty_states = text_encoder(ids).last_hidden_state.to(components.unet.device)
        return DistillationObjective(
            components.unet,
            None if self.caches_texts else text_encoder,
            components.vae,
            DDPMScheduler.from_config(components.scheduler.config),
            empty_states=empty_states,
            guidance=sum(method.distill_guidance) / 2,
            num_steps=method.distill_num_steps,
            huber_c=method.distill_huber_c,
            ema=ema,
        )

    def adapters(
        self, weights: Mapping[str, Tensor], spectrogram: SpectrogramConfig | None, source: str
    ) -> Lora | None:
        """Return the run's adapters from their weights by name; None where whole weights are trained."""
        return super().adapters(weights, spectrogram, source) if self.config.method.distill_adapters else None

    def _unfreeze(self, components: Components) -> None:
        if self.config.method.distill_adapters:
            super()._unfreeze(components)
        else:
            unfreeze(components.unet)


class VaeMethod(FullMethod):
    """`method=vae`: the VAE's decoder, and its encoder where asked, on images alone."""

    trains_on_captions = False
    caches_latents = False
    caches_texts = False

    def main_network(self, components: Components) -> Any:
        """Return the VAE."""
        return components.vae

    def make_trainable(self, components: Components) -> None:
        """Make the VAE's decoder trainable, and its encoder where asked."""
        components.unet.to(memory_format=torch.channels_last)
        unfreeze_vae(components.vae, encoder=self.config.method.train_vae_encoder)

    def make_adversary(self, components: Components) -> Adversary | None:
        """Return the discriminator of decoded images, where one is asked for."""
        method, vae = self.config.method, components.vae
        if not method.discriminator_weight:
            return None
        network = PatchDiscriminator(
            int(vae.config.out_channels), method.discriminator_channels, method.discriminator_layers, self.config.seed
        )
        return Adversary(
            network.to(vae.device),
            lr=method.discriminator_lr,
            weight=method.discriminator_weight,
            start_step=method.discriminator_start_step,
        )

    def make_objective(
        self,
        components: Components,
        codec: SpectrogramConfig | None = None,
        adversary: Adversary | None = None,
        ema: Any | None = None,
    ) -> nn.Module:
        """Return the network from batch to the VAE's loss."""
        method = self.config.method
        return VaeObjective(
            components.vae,
            kl_weight=method.kl_weight,
            train_encoder=method.train_vae_encoder,
            perceptual_weight=method.perceptual_weight,
            texture_weight=method.texture_weight,
            tagger_weight=method.tagger_weight,
            codec=codec,
            adversary=adversary,
        )

    def make_items(self, components: Components, dataset: SpectrogramDataset, caches: Caches) -> Dataset[Any]:
        """Return the images of the training split, looked up by address."""
        latent_shape = components.latent_shape(dataset.folder.spectrogram)
        return PixelItems(
            dataset,
            latent_shape=latent_shape,
            seed=self.config.seed,
            most_added_noise=self.config.method.decoder_noise,
        )

    def make_held_out(
        self, components: Components, dataset: SpectrogramDataset, device: torch.device
    ) -> HeldOutBatches:
        """Return the images of the validation split."""
        latent_shape = components.latent_shape(dataset.folder.spectrogram)
        return HeldOutImages(dataset, self.config.validation.num_slices, latent_shape=latent_shape)

    def finish(self, components: Components, dataset: SpectrogramDataset, device: torch.device) -> None:
        """Measure the scale of the latents of a trained encoder."""
        if self.config.method.train_vae_encoder:
            vae = components.vae.to(device)
            measure_scaling_factor(vae, dataset, latent_std=self.config.method.latent_std, seed=self.config.seed)


def make_method(config: TrainConfig) -> FullMethod:
    """Return the method that the config names."""
    methods = {
        MethodName.full: FullMethod,
        MethodName.lora: LoraMethod,
        MethodName.vae: VaeMethod,
        MethodName.distill: DistillMethod,
    }
    return methods[config.method.name](config)


def unfreeze_vae(vae: nn.Module, *, encoder: bool) -> None:
    """Make the VAE's decoder trainable, and its encoder too where asked."""
    if encoder:
        unfreeze(vae)
        return
    for part in ("decoder", "post_quant_conv"):
        unfreeze(getattr(vae, part))


def as_trained(components: Components, config: TrainConfig) -> Components:
    """Return a model, or one without its weights, whose scheduler says what the run trains: target, noise, distillation.

    Raises:
        InputError: If the objective cannot be trained.
    """
    target, zero_snr = config.objective.prediction_type, config.objective.rescale_betas_zero_snr
    scheduler = trained_scheduler(
        components.scheduler,
        prediction_type=None if target is None else target.value,
        rescale_betas_zero_snr=zero_snr,
    )
    return say_distilled(dataclasses.replace(components, scheduler=scheduler), config.method)


def apply_method(config: TrainConfig, method: FullMethod, folder: DatasetFolder, base: Components) -> Components:
    """Fit the model to the dataset, and choose its trainable weights.

    Raises:
        InputError: If the model cannot be trained on images of this size, or has no layers of the names in the config.
    """
    components = dataclasses.replace(base, spectrogram=folder.spectrogram)
    check_image_size(components, folder)
    components = as_trained(components, config)
    freeze(components)
    method.make_trainable(components)
    if config.gradient_checkpointing:
        method.main_network(components).enable_gradient_checkpointing()
    return components


_FEW_POSITIONS = 1024  # of latents, whose matrices of attention take little memory beside the rest of a step


def choose_attention(components: Components, precision: MixedPrecision, device: torch.device) -> None:
    """Compute attention by matrix products where that is faster: on a CPU in bf16, on small latents.

    The backward pass of torch's fused attention is slow there: without it, a step of `laptop` is 1.3 times as fast. The fused
    one keeps no matrix, which grows with the square of the number of positions, so large latents stay with it.
    """
    from diffusers.models.attention_processor import AttnProcessor

    assert components.spectrogram is not None  # of the dataset
    _, height, width = components.latent_shape(components.spectrogram)
    if precision is MixedPrecision.bf16 and device.type == "cpu" and height * width <= _FEW_POSITIONS:
        components.unet.set_attn_processor(AttnProcessor())
        components.text_encoder.set_attn_implementation("eager")


_REGIONS = ("ResnetBlock2D", "BasicTransformerBlock")
_MOST_GRAPHS = 64
"""Graphs of one kind of region: the blocks of SD 1.5's UNet have fewer pairs of channels and image size."""


def compile_regions(network: nn.Module, backend: Any) -> None:
    """Compile the blocks that a network repeats, in place; those of the same shapes share a graph."""
    from torch._dynamo import config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, _MOST_GRAPHS)
    for module in network.modules():
        if type(module).__name__ in _REGIONS:
            module.compile(fullgraph=True, dynamic=False, backend=backend)


@torch.no_grad()
def continue_adapters(components: Components, method: FullMethod, lora: Lora) -> None:
    """Give the adapters that a run trains the weights of other ones, which it goes on from.

    Raises:
        InputError: If they are of other layers or sizes than the run's config says; the message names the keys.
    """
    own = method.adapters(adapter_weights(components), None, "")
    assert own is not None  # only a LoRA run starts from adapters
    _check_adapters(method.config.method, own, lora)
    for name, layer in own.layers.items():
        start = lora.layers[name]
        layer.down.copy_(start.down)
        layer.up.copy_(start.up)
        if layer.magnitude is not None and start.magnitude is not None:
            layer.magnitude.copy_(start.magnitude.reshape(layer.magnitude.shape))


def _check_adapters(config: MethodConfig, own: Lora, lora: Lora) -> None:
    """Refuse adapters of other layers, rank or scale than those of a run."""
    if own.layers.keys() != lora.layers.keys():
        raise InputError(
            f"{lora.source}: adapts {len(lora.layers)} layers, and this run {len(own.layers)}, of which "
            f"{len(own.layers.keys() & lora.layers.keys())} are the same; give the method.lora_target_modules, "
            "method.lora_target_blocks and method.train_text_encoder that it was trained with"
        )
    kinds = {(layer.rank, layer.alpha, layer.magnitude is not None) for layer in lora.layers.values()}
    if len(kinds) > 1:
        raise InputError(f"{lora.source}: its adapters have several ranks or alphas, and a run trains them with one")
    rank, scaled_alpha, use_dora = kinds.pop()
    alpha = scaled_alpha / math.sqrt(rank) if config.lora_use_rslora else scaled_alpha
    needed = [] if rank == config.lora_rank else [f"method.lora_rank={rank}"]
    needed += [] if math.isclose(alpha, config.lora_alpha, rel_tol=1e-6) else [f"method.lora_alpha={alpha:.6g}"]
    needed += [] if use_dora == config.lora_use_dora else [f"method.lora_use_dora={str(use_dora).lower()}"]
    if needed:
        raise InputError(f"{lora.source}: has other adapters than this run would train; add {' '.join(needed)}")


@torch.no_grad()
def measure_scaling_factor(vae: Any, dataset: SpectrogramDataset, *, latent_std: float, seed: int) -> float:
    """Set the VAE's `scaling_factor` and return it.

    Unit deviation is usual (Rombach et al. 2022, appendix G). Smaller latents shift the noise schedule towards noise without
    another schedule (Chen 2023, arXiv:2301.10972): what fills the whole image, such as the register of a clip, otherwise shows
    through the noise of nearly every timestep, and is hardly ever learned from the caption.

    Args:
        vae: The trained VAE.
        dataset: The slices to measure.
        latent_std: The standard deviation of the scaled latents.
        seed: Chooses the slices.
    """
    count = min(_MEASURED_SLICES, len(dataset))
    chosen = generator(seed, "scaling factor").permutation(len(dataset))[:count]
    # One image (1, 3, H, W) at a time to latents (1, C, h, w).
    latents = [vae.encode(dataset.pixels(int(index))[None].to(vae.device)).latent_dist.mode() for index in chosen]
    factor = latent_std / float(torch.cat(latents).float().std())
    vae.register_to_config(scaling_factor=factor)
    return factor


def write_final(target: Path, components: Components, method: FullMethod) -> None:
    """Write the model that a run ends with: a diffusers folder, or the adapters of a LoRA run.

    Args:
        target: The folder.
        components: The model, with the weights that are to be written.
        method: The method that trained them.
    """
    weights = {name: weight.detach().cpu().contiguous() for name, weight in adapter_weights(components).items()}
    lora = method.adapters(weights, components.spectrogram, components.source)
    remove_partials(target.parent)
    with written_beside(target) as partial:
        if lora is None:
            write_model_files(partial, ExportFormat.diffusers, model=as_lazy_model(components))
        else:
            write_model_files(partial, ExportFormat.lora, lora=lora)
