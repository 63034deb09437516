"""A model as files: which one to start from, and how one is written by `riffusion export` and `riffusion import`."""

import dataclasses
import enum

from omegaconf import MISSING

from riffusion_train.config.denoising import RecommendedConfig


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


class ExportFormat(enum.Enum):
    """The layout of a model on disk."""

    diffusers = "diffusers"
    """A diffusers folder with `spectrogram.json`."""
    single_file = "single_file"
    """One `.safetensors` file in the original LDM layout, for A1111, Forge and ComfyUI."""
    lora = "lora"
    """The adapters alone."""


class ExportWeights(enum.Enum):
    """Which of a run's weights to take."""

    ema = "ema"
    """The moving average, where the run keeps one."""
    raw = "raw"
    """The weights after the last step."""


class ExportDtype(enum.Enum):
    """The number format of the weights."""

    fp32 = "fp32"
    """As they were trained."""
    fp16 = "fp16"
    """Half the size, for GPUs."""
    bf16 = "bf16"
    """Half the size, with the range of fp32."""


class LoraLayout(enum.Enum):
    """The layout of adapters."""

    kohya = "kohya"
    """One `.safetensors` file with `lora_unet_…` and `alpha` keys, which all programs read; or a folder around it."""
    diffusers = "diffusers"
    """A folder with `pytorch_lora_weights.safetensors`, which only diffusers and riffusion-train read."""


@dataclasses.dataclass
class ExportConfig:
    """All keys of `riffusion export`."""

    run: str = MISSING
    """Run folder made by `riffusion train`, or one of its `checkpoints/step-…`."""
    out: str = MISSING
    """Folder or `.safetensors` file to write; it must not exist."""
    base: str | None = None
    """Where the model is that the run was started from; null is where it was then."""
    format: ExportFormat = ExportFormat.diffusers
    """The layout to write."""
    checkpoint: str = "final"
    """Step of the checkpoint to export, or `final`, `newest`, `best` (the one that `validation.keep_best` kept) or `judged`
    (the one that `riffusion evaluate run` chose)."""
    weights: ExportWeights = ExportWeights.ema
    """Which weights to take."""
    dtype: ExportDtype = ExportDtype.fp32
    """The number format of the weights."""
    layout: LoraLayout = LoraLayout.kohya
    """With `format=lora`: the layout to write."""
    author: str | None = None
    """Who made the model, for the header of the file; the user of `push_to_hub` where none is given."""
    licence: str | None = None
    """The hub's name of the licence, such as `mit`, of weights that descend from no others; null is `other`. The licence of a
    base model carries over."""
    notes: str | None = None
    """A text file in Markdown that goes onto the model card: what music the model was trained on, and whose it is."""
    prompts: str | None = None
    """A text file with prompts that the model understands, one a line, for `play` to begin with and to suggest; null is what
    its base suggests."""
    scores: str | None = None
    """A `scores.json` of `riffusion evaluate score`, or its folder, for the model card; null takes what `evaluate run` measured
    of this checkpoint, if it did."""
    push_to_hub: str | None = None
    """Also upload to this repository of the Hugging Face hub, `user/name`."""
    private: bool = False
    """With `push_to_hub`: whether a new repository is private."""
    recommended: RecommendedConfig = dataclasses.field(default_factory=RecommendedConfig)
    """How the model is best sampled: written into it, and taken by sample, play, grid and previews where a key is not given.
    Null is what its base recommends."""


@dataclasses.dataclass
class ImportConfig:
    """All keys of `riffusion import`."""

    out: str = MISSING
    """Folder or `.safetensors` file to write; it must not exist."""
    format: ExportFormat = ExportFormat.diffusers
    """The layout to write."""
    dtype: ExportDtype = ExportDtype.fp32
    """The number format of the weights."""
    base: str | None = None
    """With a LoRA: the model to merge it into, as a folder, a file or a hub id."""
    revision: str | None = None
    """Revision of a hub id."""
    lora_scale: float = 1.0
    """With a LoRA and a base: weight of the LoRA."""
    layout: LoraLayout = LoraLayout.kohya
    """With `format=lora`: the layout to write."""
    codec: str | None = None
    """Codec preset of `conf/spectrogram/`, for a model that does not carry its own."""
    allow_pickle: bool = False
    """Also read `.ckpt` and `.bin`. These are pickles, which can run code: use only files that you trust."""
