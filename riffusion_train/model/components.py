"""A Stable Diffusion 1.5 model in memory: its parts, its architecture at any size, and its tokenizer.

The parts are built with random weights, or empty on the meta device. The tokenizer is rebuilt byte for byte from CLIP's
published BPE vocabulary file: `vocab.json` and `merges.txt` have the SHA-256 sums of the files that Stable Diffusion 1.5 ships,
and both are checked before they are written.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from torch import nn
from torch.overrides import TorchFunctionMode

from riffusion_train.config.model import ModelConfig
from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.runtime.clip_bpe import (
    END,
    END_ID,
    MAX_TOKENS,
    START,
    START_ID,
    VOCABULARY_SIZE,
    check_sha256,
    read_vocabulary,
)
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import json_text, write_atomically, write_json

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, PNDMScheduler, SchedulerMixin, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer


# --- the parts -------------------------------------------------------------------------------------------------------


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


# --- the architecture ------------------------------------------------------------------------------------------------

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


def trained_scheduler(scheduler: Any, *, prediction_type: str | None, rescale_betas_zero_snr: bool | None) -> Any:
    """Return a scheduler whose config says what was trained, so that samplers use the same target and schedule.

    A terminal signal-to-noise ratio of zero (Lin et al. 2024, arXiv:2305.08891) needs DDIM's scheduler: the one that Stable
    Diffusion 1.5 ships has no such key. Its timesteps are `trailing`, since a sampler that leaves out the last timestep never
    starts from the pure noise that was trained.

    Args:
        scheduler: The base model's diffusers scheduler.
        prediction_type: `epsilon` or `v_prediction`; None is what it says already.
        rescale_betas_zero_snr: Whether the last timestep is pure noise; None is what it says already.

    Raises:
        InputError: If epsilon would be predicted from pure noise.
    """
    from diffusers import DDIMScheduler

    config = dict(scheduler.config)
    was_rescaled = bool(config.get("rescale_betas_zero_snr"))
    prediction_type = prediction_type or config["prediction_type"]
    if was_rescaled if rescale_betas_zero_snr is None else rescale_betas_zero_snr:
        if prediction_type == "epsilon":
            raise InputError(
                "objective.rescale_betas_zero_snr=true: pure noise says nothing about epsilon; take "
                "objective.prediction_type=v_prediction"
            )
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


# --- the tokenizer ---------------------------------------------------------------------------------------------------

_TOKENIZER_SHA256 = {
    "vocab.json": "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349",
    "merges.txt": "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
}
_TOKENIZER_SETTINGS = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": MAX_TOKENS,
    "bos_token": START,
    "eos_token": END,
    "unk_token": END,
    "pad_token": END,
    "do_lower_case": True,
    "add_prefix_space": False,
    "errors": "replace",
}


def build_tokenizer() -> "CLIPTokenizer":
    """Return the Stable Diffusion 1.5 tokenizer, without the network."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return CLIPTokenizer.from_pretrained(folder)


def load_tokenizer(folder: Path) -> "CLIPTokenizer":
    """Read a folder's tokenizer.

    Raises:
        OSError: If the folder holds no tokenizer.
        ValueError: If it holds a damaged one.
    """
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder))


def write_tokenizer(folder: Path) -> None:
    """Write `vocab.json`, `merges.txt` and `tokenizer_config.json` into `folder`.

    Raises:
        RuntimeError: If the packaged vocabulary or a rebuilt file does not have the published SHA-256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _standard_files().items():
        (folder / name).write_bytes(content)
    write_json(folder / "tokenizer_config.json", _TOKENIZER_SETTINGS, ascii_only=True)


def save_tokenizer(tokenizer: "CLIPTokenizer", folder: Path) -> None:
    """Write a tokenizer for every transformers: `vocab.json` and `merges.txt`, and `tokenizer.json` unless it is the standard.

    Of the standard one transformers 4 and 5 read the first two; `tokenizer.json` would be 3.6 MB more, and slower to read.
    """
    if is_standard(tokenizer):
        write_tokenizer(folder)
        return
    with _as_made(tokenizer):
        tokenizer.save_pretrained(folder)
    if (folder / "vocab.json").is_file() or not (folder / "tokenizer.json").is_file():
        return
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    write_json(folder / "vocab.json", model["vocab"])
    write_atomically(folder / "merges.txt", "#version: 0.2\n" + "\n".join(merges) + "\n")


def is_standard(tokenizer: "CLIPTokenizer") -> bool:
    """Say whether a tokenizer has exactly the vocabulary of Stable Diffusion 1.5."""
    if len(tokenizer) != VOCABULARY_SIZE:
        return False
    vocabulary, _ = read_vocabulary()
    return tokenizer.get_vocab() == vocabulary


def tokenizer_fingerprint(tokenizer: "CLIPTokenizer") -> str:
    """Return a short hash of all that turns a text into ids: vocabulary, merges, normalisation, added tokens, length."""
    with _as_made(tokenizer):
        digest = hashlib.blake2b(tokenizer.backend_tokenizer.to_str().encode("utf-8"), digest_size=16)
    digest.update(f"{tokenizer.model_max_length} {tokenizer.pad_token_id}".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def _as_made(tokenizer: "CLIPTokenizer") -> Iterator[None]:
    """Remove for the length of a block the padding and truncation that the last call left in a tokenizer."""
    backend = tokenizer.backend_tokenizer
    padding, truncation = backend.padding, backend.truncation
    backend.no_padding()
    backend.no_truncation()
    try:
        yield
    finally:
        if padding is not None:
            backend.enable_padding(**padding)
        if truncation is not None:
            backend.enable_truncation(**truncation)


@functools.cache
def _standard_files() -> dict[str, bytes]:
    """Return `vocab.json` and `merges.txt`, checked."""
    ids, merges = read_vocabulary()
    files = {
        "vocab.json": json_text(ids, sort_keys=True).encode("utf-8"),
        "merges.txt": ("#version: 0.2\n" + "\n".join(merges) + "\n").encode("utf-8"),
    }
    for name, content in files.items():
        check_sha256(name, content, _TOKENIZER_SHA256[name])
    return files
