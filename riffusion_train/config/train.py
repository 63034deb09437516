"""The config of `riffusion train`: one root dataclass, one flat dataclass for each group of presets in `conf/`."""

import dataclasses
import enum

from omegaconf import MISSING

from riffusion_train.config.model import ModelConfig
from riffusion_train.config.sample import ClipConfig


class MethodName(enum.Enum):
    """What is trained."""

    full = "full"
    """Every weight of the UNet."""
    lora = "lora"
    """Low-rank adapters on the UNet's attention (Hu et al. 2021)."""
    vae = "vae"
    """The VAE, on the images themselves."""
    distill = "distill"
    """The UNet, or adapters on it, learn to make in a few steps what the model makes in many (Luo et al. 2023)."""


class OptimizerName(enum.Enum):
    """The optimizer."""

    adamw = "adamw"
    """`torch.optim.AdamW`, fused."""
    adamw_8bit = "adamw_8bit"
    """AdamW with 8-bit moments (Dettmers et al. 2022), from bitsandbytes: 6 bytes less per weight. Needs a GPU."""
    prodigy = "prodigy"
    """Finds its own learning rate (Mishchenko and Defazio 2024), from prodigyopt; `lr` is a factor, usually 1."""
    schedule_free = "schedule_free"
    """AdamW that averages the weights instead of lowering the rate (Defazio et al. 2024), from schedulefree."""


class ScheduleName(enum.Enum):
    """The shape of the learning rate over the steps, by diffusers' names."""

    constant = "constant"
    constant_with_warmup = "constant_with_warmup"
    linear = "linear"
    cosine = "cosine"


class PredictionType(enum.Enum):
    """What the UNet predicts."""

    epsilon = "epsilon"
    """The noise (Ho et al. 2020); what SD 1.5 was trained on."""
    v_prediction = "v_prediction"
    """The velocity (Salimans and Ho 2022)."""


class MixedPrecision(enum.Enum):
    """The dtype of autocast; master weights and EMA are always fp32."""

    no = "no"
    fp16 = "fp16"
    bf16 = "bf16"


class TrackerName(enum.Enum):
    """Where metrics go in addition to `metrics.jsonl`, which is always written."""

    files = "files"
    tensorboard = "tensorboard"
    wandb = "wandb"
    trackio = "trackio"


class Monitor(enum.Enum):
    """What says whether a model has become better."""

    loss = "loss"
    """The held-out loss; the lowest is the best."""
    kid = "kid"
    """KID between sampled clips and held-out ones, by musicnn; the lowest is the best."""
    agreement = "agreement"
    """How well sampled clips agree with the words of their captions; the highest is the best."""


class CacheDtype(enum.Enum):
    """How cached latents and hidden states are stored."""

    fp32 = "fp32"
    fp16 = "fp16"
    """Half the size, with 11 bits of precision."""
    bf16 = "bf16"
    """Half the size, with 8 bits of precision and the range of fp32."""


class Resume(enum.Enum):
    """What to do if the run folder already holds a run."""

    never = "never"
    """Refuse."""
    auto = "auto"
    """Resume from the newest checkpoint; start anew if there is none."""


@dataclasses.dataclass
class MethodConfig:
    """What is trained, and how much of it."""

    name: MethodName = MethodName.full
    """The method."""
    train_text_encoder: bool = False
    """Also train the text encoder: all of it with `full`, adapters on its attention with `lora`."""
    text_encoder_lr: float | None = None
    """Learning rate of the text encoder; null takes the UNet's."""
    lora_rank: int = 16
    """Rank of the adapters."""
    lora_alpha: float = 16.0
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    lora_target_modules: list[str] = dataclasses.field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])
    """Names of the UNet's linear layers that get adapters."""
    lora_target_blocks: list[str] = dataclasses.field(default_factory=list)
    """Blocks of the UNet that get adapters, such as `mid_block` or `up_blocks.1`; empty is all of them."""
    lora_text_encoder_target_modules: list[str] = dataclasses.field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "out_proj"]
    )
    """With `train_text_encoder`: names of the text encoder's linear layers that get adapters."""
    lora_use_dora: bool = False
    """Train magnitude and direction of the rows of adapted weights separately (DoRA, Liu et al. 2024)."""
    lora_use_rslora: bool = False
    """Scale by alpha / sqrt(rank), so that high ranks learn as fast as low ones (rsLoRA, Kalajdzievski 2023)."""
    train_vae_encoder: bool = False
    """With `vae`: train the encoder too and measure the scale of the latents again, as a VAE trained from scratch needs."""
    kl_weight: float = 1e-6
    """With `vae` and a trained encoder: weight of the KL divergence."""
    perceptual_weight: float = 0.0
    """With `vae`: weight of a loss that compares edges and textures at three scales, for sharper images; 0 is off."""
    texture_weight: float = 0.0
    """With `vae`: weight of a loss that compares the strength of texture, so that noise does not turn grey; 0 is off."""
    tagger_weight: float = 0.0
    """With `vae`: weight of a loss that compares what the shipped music tagger sees in the images; 0 is off."""
    decoder_noise: float = 0.0
    """With `vae`: largest deviation of noise that is added to the latents, in the scale of the UNet's before training. So
    the decoder learns to make clean images of latents with small errors, as a UNet's are (Zheng et al. 2025); 0 is off."""
    discriminator_weight: float = 0.0
    """With `vae`: strength of a patch discriminator (Esser et al. 2021), relative to the gradient of the other losses at the
    last layer; 0 is off, 0.5 to 1 is usual."""
    discriminator_start_step: int = 0
    """With a discriminator: train without it before this step."""
    discriminator_lr: float = 1e-4
    """With a discriminator: its learning rate, which stays constant."""
    discriminator_channels: int = 64
    """With a discriminator: channels of its first layer; each further one has twice as many, up to eight times."""
    discriminator_layers: int = 3
    """With a discriminator: its layers that halve the image. With 3, a patch is 70 pixels wide, with 2 it is 34."""
    distill_adapters: bool = False
    """With `distill`: train low-rank adapters, of the `lora_…` keys, instead of every weight of the UNet (LCM-LoRA)."""
    distill_guidance: list[float] = dataclasses.field(default_factory=lambda: [7.0, 7.0])
    """With `distill`: lowest and highest strength of the guidance that becomes part of the model, drawn for each slice. Give
    the same number twice where one strength is known to be good."""
    distill_num_steps: int = 50
    """With `distill`: how many steps the way from noise to image is divided into; each training step skips one of them."""
    distill_huber_c: float = 1e-3
    """With `distill`: below about this difference the loss is quadratic, above it linear (pseudo-Huber)."""
    latent_std: float = 1.0
    """With a trained encoder: the standard deviation to scale latents to. Below 1, noise hides an image at more timesteps,
    so that the caption decides more of it."""

    @property
    def trains_adapters(self) -> bool:
        """Whether low-rank adapters are trained, and the model's own weights stay."""
        return self.name is MethodName.lora or (self.name is MethodName.distill and self.distill_adapters)


@dataclasses.dataclass
class OptimizerConfig:
    """The optimizer."""

    name: OptimizerName = OptimizerName.adamw
    """Which one."""
    lr: float = 1e-5
    """Peak learning rate."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 1e-2
    """Decoupled weight decay."""


@dataclasses.dataclass
class ScheduleConfig:
    """The learning rate over the optimizer steps; it does not depend on the number of processes."""

    name: ScheduleName = ScheduleName.constant_with_warmup
    """The shape of the schedule."""
    num_warmup_steps: int = 500
    """Steps from zero to the peak."""


@dataclasses.dataclass
class ObjectiveConfig:
    """The training objective of the UNet."""

    prediction_type: PredictionType | None = None
    """What the UNet predicts; null goes on with what the model predicts. Written into the exported scheduler."""
    rescale_betas_zero_snr: bool | None = None
    """Let the last timestep be pure noise (Lin et al. 2024), so that very loud and very quiet images can be made; needs
    v_prediction. Null goes on with what the model has. Written into the exported scheduler."""
    snr_gamma: float | None = None
    """Min-SNR weighting (Hang et al. 2023); 5.0 is the paper's value, null is off."""
    timestep_shift: float = 1.0
    """Where timesteps are drawn: of a share u of the noise schedule it makes s u / (1 + (s - 1) u) (Esser et al. 2024,
    equation 23). 1 is uniform; below 1, steps with little noise are drawn more often, as suits latents scaled below 1."""
    noise_offset: float = 0.0
    """Strength of a per-channel offset in the noise."""
    input_perturbation: float = 0.0
    """Strength of extra noise in the UNet's input, not in the target (Ning et al. 2023); 0.1 is the paper's value."""
    proportion_empty_prompts: float = 0.1
    """How often the caption is dropped, so that the model learns the unconditional prediction that guidance needs."""


@dataclasses.dataclass
class CaptionsConfig:
    """Which caption of a slice a step trains with, and in which form; how often none is in `objective`."""

    weights: list[float] = dataclasses.field(default_factory=list)
    """How often the first, second, … caption of a slice is taken, in proportion, such as [3, 1]; those after the last weight
    have it too. 0 takes a caption never, which the first one's cannot be. Empty takes all equally often."""
    shuffle_tags: bool = False
    """Put the tags of a caption, which are what its commas divide, in another order each time. A caption that ends with a
    full stop, `!` or `?` is a sentence, and stays as it is."""
    keep_first_tags: int = 0
    """With `shuffle_tags` or `tag_dropout`: leave so many tags at the front as they are, such as a trigger word."""
    tag_dropout: float = 0.0
    """How often each tag is left out; one always stays."""
    num_variants: int = 8
    """With `cache_text_embeddings`: how many variants of a caption are made and cached, for steps to draw from. Where the text
    encoder runs in every step, a new one is made each time."""


@dataclasses.dataclass
class EmaConfig:
    """The moving average of the trained weights, in fp32; previews and exports use it."""

    enabled: bool = True
    """Whether to keep a moving average."""
    decay: float = 0.9999
    """Highest decay; in the early steps it is (1 + step) / (10 + step), or as `use_ema_warmup` says."""
    use_ema_warmup: bool = False
    """Raise the decay as 1 - (1 + step / inv_gamma) ** -power instead: faster at first, slower to reach the highest."""
    inv_gamma: float = 1.0
    """With `use_ema_warmup`: steps after which the decay begins to rise."""
    power: float = 2 / 3
    """With `use_ema_warmup`: how fast it rises; 2/3 suits a million steps, 3/4 fewer."""
    update_after_step: int = 0
    """Start averaging after so many steps."""


@dataclasses.dataclass
class ValidationConfig(ClipConfig):
    """What is measured on the held-out split with the EMA weights: the loss, and what the judge says of sampled clips."""

    every_steps: int = 0
    """Measure every so many steps, and at the end of a run at least that long; 0 is never."""
    num_slices: int = 64
    """Largest number of slices to measure the loss on, spread over the split, at fixed timesteps with fixed noise."""
    num_clips: int = 0
    """Clips to sample from held-out captions and to judge: KID, agreement with the captions, copies; 0 samples none. The
    captions and the noise are the same every time."""
    guidance_scale: float = 7.0
    """Strength of classifier-free guidance of the judged clips."""
    num_real: int = 256
    """Largest number of held-out slices to compare the judged clips with."""
    num_searched: int = 5000
    """Largest number of training slices in which copies are searched; 0 searches none."""
    monitor: Monitor = Monitor.loss
    """What `patience` and `keep_best` go by: `loss`, or `kid` or `agreement`, which need `num_clips`."""
    patience: int | None = None
    """Stop the run after so many measurements in a row without a better one; null never stops."""
    keep_best: bool = False
    """Save a checkpoint at the best measurement and keep it beside the newest: `riffusion export checkpoint=best`."""


@dataclasses.dataclass
class PreviewConfig(ClipConfig):
    """What is sampled while training, from the EMA weights, into `previews/`."""

    every_steps: int = 0
    """Sample every so many steps; 0 is never."""
    prompts: list[str] = dataclasses.field(default_factory=list)
    """Prompts to sample; empty takes captions of the dataset, each once: held-out ones first, then as many trained ones."""
    num_prompts: int = 4
    """How many captions to take where no prompts are given."""
    seed: int = 0
    """Seed of the first prompt; each further prompt adds one. The same at every preview."""
    guidance_scales: list[float] = dataclasses.field(default_factory=lambda: [7.0])
    """Strengths of classifier-free guidance; every prompt is sampled at each."""
    step_counts: list[int] = dataclasses.field(default_factory=list)
    """Numbers of denoising steps; every prompt is sampled with each. Empty takes `num_inference_steps`."""
    base_row: bool = False
    """Also sample once from the base model, for comparison."""


@dataclasses.dataclass
class TrackerConfig:
    """Where metrics go."""

    name: TrackerName = TrackerName.tensorboard
    """The tracker."""
    project: str = "riffusion-train"
    """Project name for wandb and trackio."""
    entity: str | None = None
    """wandb: the user or team that owns the project; null is your default."""
    group: str | None = None
    """wandb: the group of runs that this one belongs to."""
    tags: list[str] = dataclasses.field(default_factory=list)
    """wandb: tags of the run."""
    notes: str | None = None
    """wandb: a description of the run."""


@dataclasses.dataclass
class TrainConfig:
    """All keys of `riffusion train`."""

    dataset: str = MISSING
    """Dataset made by `riffusion prepare`: its folder, a hub id such as `user/name` or `user/name@revision`, or a URL such as
    `s3://bucket/name` or `https://…`. Several in brackets, `[a,b]`, are mixed."""
    dataset_weights: list[float] = dataclasses.field(default_factory=list)
    """With several datasets: how often slices of each are taken, in proportion, such as [3, 1]. Empty takes all slices equally
    often."""
    shuffle_window: int | None = None
    """Shuffle row groups, then slices within windows of so many, so that few row groups are read at a time. null shuffles all
    slices of a local dataset freely, and takes a window that suits `cache_gb` for one in a store."""
    cache_dir: str | None = None
    """Folder for the caches; null is `.cache` in a dataset folder, and `~/.cache/riffusion-train` for a dataset in a store."""
    cache_gb: float = 50.0
    """With a dataset in a store: how many GB of it are kept on this machine at most."""
    spectrogram_preset: str | None = None
    """The spectrogram preset that the dataset must have been prepared with; null accepts any."""
    allow_other_spectrogram: bool = False
    """Train even if the dataset's codec is not the base model's or not `spectrogram_preset`."""
    run: str | None = None
    """Run folder; null makes `runs/<date>-<name>`."""
    mirror: str | None = None
    """URL in a store, such as `s3://bucket/run`, where the run is uploaded while it trains; `resume=auto` goes on from there on
    a machine whose run folder is empty."""
    name: str = "train"
    """Short name at the end of a run folder that `run` does not name."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    method: MethodConfig = dataclasses.field(default_factory=MethodConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    captions: CaptionsConfig = dataclasses.field(default_factory=CaptionsConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    ema: EmaConfig = dataclasses.field(default_factory=EmaConfig)
    validation: ValidationConfig = dataclasses.field(default_factory=ValidationConfig)
    preview: PreviewConfig = dataclasses.field(default_factory=PreviewConfig)
    tracker: TrackerConfig = dataclasses.field(default_factory=TrackerConfig)
    seed: int = 0
    """Seed; every random draw is a function of it, the step and the position in the global batch."""
    max_train_steps: int = 10000
    """Optimizer steps."""
    train_batch_size: int = 4
    """Slices in one forward pass of one process."""
    gradient_accumulation_steps: int = 1
    """Forward passes in one optimizer step."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    mixed_precision: MixedPrecision = MixedPrecision.no
    """Autocast dtype."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a quarter more work."""
    compile: bool = False
    """Compile the whole objective with `torch.compile`: minutes before the first step, then faster steps on a GPU."""
    compile_regions: bool = False
    """Compile the blocks that the trained network repeats, instead of all of the objective: a shorter start, and with several
    processes gradients are sent while others are still being computed."""
    cache_latents: bool = True
    """Encode every slice once with the frozen VAE, when a step first needs it, and cache mean and variance on disk."""
    cache_text_embeddings: bool = True
    """Encode every distinct caption once with the frozen text encoder, when a step first needs it, and cache its hidden states
    on disk; ignored with `method.train_text_encoder`."""
    cache_dtype: CacheDtype | None = None
    """How the caches store numbers; fp16 and bf16 take half the space. null is fp16, or what a resumed run was begun with."""
    cache_on_device: bool = False
    """Keep the cached rows of the steps to come in the memory of the device, where they fit in half of what is free."""
    cache_only: bool = False
    """Fill the caches for the whole dataset and end, before any step."""
    cache_part: int = 1
    """With `cache_only`: which of `cache_parts` equal parts of the slices this job fills, from 1; other machines that share
    the folder of the caches fill the others."""
    cache_parts: int = 1
    """With `cache_only`: into how many parts the slices are divided."""
    dataloader_num_workers: int = 0
    """Data loader processes per training process."""
    num_threads: int | None = None
    """CPU threads per training process; null leaves it to torch."""
    rank_timeout_s: float = 600.0
    """With several processes: end the run when one of them has given no sign of life for so many seconds."""
    logging_steps: int = 10
    """Log metrics every so many steps."""
    checkpointing_steps: int = 500
    """Save a checkpoint every so many steps, and at the end."""
    checkpoints_total_limit: int = 2
    """Keep this many checkpoints."""
    resume: Resume = Resume.never
    """What to do if the run folder already holds a run."""
    check: bool = False
    """Dry run: build everything, do two steps, save and load once, report what the run would need, and leave nothing behind."""
