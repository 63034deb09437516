"""What is wrong with a training config, its dataset, its run folder or this machine, said in one line before the first step."""

import importlib.util
import math
import os
from collections.abc import Callable
from typing import Any

import torch

from riffusion_train.config.spectrogram import SpectrogramConfig, load_preset, preset_words
from riffusion_train.config.train import (
    CaptionsConfig,
    MethodName,
    MixedPrecision,
    Monitor,
    OptimizerName,
    Resume,
    ScheduleName,
    TrackerConfig,
    TrackerName,
    TrainConfig,
)
from riffusion_train.dataset.layout import DatasetFolder
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.dataset.store import codec_differences
from riffusion_train.listening.distances import KERNEL_CLIPS
from riffusion_train.model.components import Components
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.distillation import check_distillation
from riffusion_train.training.distribution import fsdp_requested
from riffusion_train.training.run_folder import Checkpoints, RunFolder, config_values

_AT_LEAST_ONE = (
    "max_train_steps",
    "train_batch_size",
    "gradient_accumulation_steps",
    "logging_steps",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "method.lora_rank",
    "method.discriminator_channels",
    "method.discriminator_layers",
    "validation.num_slices",
    "validation.num_real",
    "cache_part",
    "cache_parts",
    "captions.num_variants",
)
_NOT_NEGATIVE = (
    "dataloader_num_workers",
    "schedule.num_warmup_steps",
    "preview.every_steps",
    "validation.every_steps",
    "validation.num_clips",
    "validation.num_searched",
    "optimizer.weight_decay",
    "objective.noise_offset",
    "objective.input_perturbation",
    "method.kl_weight",
    "method.perceptual_weight",
    "method.texture_weight",
    "method.tagger_weight",
    "method.decoder_noise",
    "method.discriminator_weight",
    "method.discriminator_start_step",
    "ema.update_after_step",
    "captions.keep_first_tags",
)
_ABOVE_ZERO = (
    "rank_timeout_s",
    "cache_gb",
    "optimizer.lr",
    "optimizer.eps",
    "max_grad_norm",
    "method.lora_alpha",
    "method.latent_std",
    "objective.timestep_shift",
    "method.discriminator_lr",
    "ema.inv_gamma",
    "ema.power",
)
_ABOVE_ZERO_OR_NULL = ("method.text_encoder_lr", "objective.snr_gamma")
_AT_LEAST_ONE_OR_NULL = ("num_threads", "shuffle_window", "validation.patience")
_BELOW_ONE = ("optimizer.beta1", "optimizer.beta2", "ema.decay", "captions.tag_dropout")


def check_config(config: TrainConfig) -> None:
    """Refuse numbers out of range and settings that cannot go together.

    Raises:
        InputError: For the first problem; the message names the key and what to do.
    """
    _check_range(config, _AT_LEAST_ONE, lambda value: value >= 1, "must be 1 or more")
    _check_range(config, _NOT_NEGATIVE, lambda value: value >= 0, "must be 0 or more")
    _check_range(config, _ABOVE_ZERO, lambda value: value > 0, "must be above 0")
    _check_range(config, _ABOVE_ZERO_OR_NULL, lambda value: value is None or value > 0, "must be above 0, or null")
    _check_range(config, _AT_LEAST_ONE_OR_NULL, lambda value: value is None or value >= 1, "must be 1 or more, or null")
    _check_range(config, _BELOW_ONE, lambda value: 0 <= value < 1, "must be from 0 to below 1")
    _check_range(config, ("objective.proportion_empty_prompts",), lambda value: 0 <= value <= 1, "must be from 0 to 1")
    method = config.method
    if method.train_text_encoder and method.name is MethodName.vae:
        raise InputError("method.train_text_encoder=true: method=vae trains on images alone; take method=full or lora")
    if config.compile and (config.compile_regions or method.discriminator_weight):
        raise InputError(
            "compile=true is for the whole objective: a discriminator divides it, and compile_regions=true is instead of it; "
            "take compile=false"
        )
    _check_vae_losses(config)
    _check_distillation(config)
    if method.text_encoder_lr is not None and not method.train_text_encoder:
        raise InputError("method.text_encoder_lr is set; add method.train_text_encoder=true")
    _check_captions(config.captions, method.name)
    if config.cache_part > config.cache_parts:
        raise InputError(f"cache_part={config.cache_part}: give one of the cache_parts={config.cache_parts}")
    if not config.validation.every_steps and (config.validation.patience or config.validation.keep_best):
        raise InputError("validation.patience and validation.keep_best need validation.every_steps")
    _check_judge(config)


def _check_judge(config: TrainConfig) -> None:
    monitor, judged = config.validation.monitor, config.validation.num_clips > 0
    if monitor is not Monitor.loss and not judged:
        raise InputError(f"validation.monitor={monitor.value} needs clips to judge; take validation.num_clips=64")
    if judged and config.method.name is MethodName.vae:
        raise InputError("validation.num_clips: method=vae trains on images alone, and has no captions to sample")
    if judged and not config.validation.every_steps:
        raise InputError("validation.num_clips needs validation.every_steps; take validation=judge")
    for key in ("num_clips", "num_real"):
        value = getattr(config.validation, key)
        if judged and value < KERNEL_CLIPS:
            raise InputError(f"validation.{key}={value}: KID needs at least {KERNEL_CLIPS}; num_clips=0 is no judge")


def _check_captions(captions: CaptionsConfig, method: MethodName) -> None:
    """Refuse weights that leave a slice without a caption, and captions for a method that has none."""
    weights = captions.weights
    if weights and not (weights[0] > 0 and all(0 <= weight < math.inf for weight in weights)):
        raise InputError(
            f"captions.weights={weights}: the first must be above 0, since a slice may have a single caption, and the others "
            "0 or more"
        )
    if method is MethodName.vae and captions != CaptionsConfig():
        raise InputError("captions: method=vae trains on images alone; take captions=default")


def _check_vae_losses(config: TrainConfig) -> None:
    """Refuse losses of the VAE where no VAE is trained, or that would never be used."""
    method = config.method
    for key in ("perceptual_weight", "texture_weight", "tagger_weight", "decoder_noise", "discriminator_weight"):
        if getattr(method, key) and method.name is not MethodName.vae:
            raise InputError(f"method.{key}={getattr(method, key)}: is of method=vae; leave it out, or take method=vae")
    if method.discriminator_weight and method.discriminator_start_step >= config.max_train_steps:
        raise InputError(
            f"method.discriminator_start_step={method.discriminator_start_step}: the run ends before, at "
            f"max_train_steps={config.max_train_steps}; take an earlier step, or method.discriminator_weight=0"
        )


def _check_distillation(config: TrainConfig) -> None:
    """Refuse what distillation cannot use, and its keys for other methods."""
    method, objective = config.method, config.objective
    if method.name is not MethodName.distill:
        if method.distill_adapters:
            raise InputError("method.distill_adapters=true: is of method=distill; leave it out, or take method=distill")
        return
    check_distillation(method)
    if objective.snr_gamma is not None or objective.input_perturbation:
        raise InputError(
            "objective.snr_gamma and objective.input_perturbation: method=distill learns from the model itself and has no use "
            "for them; leave them out"
        )


def _check_range(config: TrainConfig, keys: tuple[str, ...], good: Callable[[Any], bool], rule: str) -> None:
    for key in keys:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        if not good(value):
            raise InputError(f"{key}={value}: {rule}")


def check_tracker(config: TrackerConfig) -> None:
    """Refuse a tracker that is not installed; Accelerate would only warn and train without it.

    Raises:
        InputError: With the command that installs it; if a key is another tracker's.
    """
    if config.name is not TrackerName.files and importlib.util.find_spec(config.name.value) is None:
        raise InputError(f"tracker={config.name.value} is not installed; pip install {config.name.value}")
    for key in ("entity", "group", "tags", "notes"):
        if getattr(config, key) and config.name is not TrackerName.wandb:
            raise InputError(
                f"tracker.{key} is wandb's and tracker={config.name.value}; leave it out, or take tracker=wandb"
            )


_LOOKED_AT, _LOOKED_AT_IN_STORES = 64, 8
"""Images of a dataset that are looked at before the first step. In a store, each costs its row group."""


def check_slices(dataset: SpectrogramDataset, *, captions: bool) -> None:
    """Refuse slices that cannot be trained on: images of another size, missing captions.

    Args:
        dataset: The slices; up to 64 images spread over them are looked at, 8 in a store, and as many row groups' captions.
        captions: Whether captions are needed.

    Raises:
        InputError: Naming a slice and how many there are like it.
    """
    count = min(_LOOKED_AT_IN_STORES if dataset.folder.is_remote else _LOOKED_AT, len(dataset))
    for number in range(count):
        dataset.pixels(number * len(dataset) // count)
    if not captions:
        return
    missing, looked_at = dataset.without_caption(count)
    if missing:
        raise InputError(
            f"{dataset.folder.name}: {len(missing)} of {looked_at} slices have an empty caption or none, such as "
            f"{missing[0]}; prepare the audio with captions, or leave these files out"
        )


_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
_FSDP_SETTINGS = {
    "FSDP_VERSION": ("1", "2", "fsdp_version: 2"),
    "FSDP_OFFLOAD_PARAMS": ("false", "false", "fsdp_offload_params: false, and more processes or a smaller batch"),
    "FSDP_RESHARD_AFTER_FORWARD": ("true", "true", "fsdp_reshard_after_forward: true"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "false",
        "false",
        "fsdp_activation_checkpointing: false and the key gradient_checkpointing=true",
    ),
}
"""Settings of Accelerate's FSDP that would change what is computed or held in memory: its default, our value, the fix."""


def check_launch(config: TrainConfig) -> None:
    """Refuse a launch that would shard the weights in a way that is not supported, or with settings that need whole weights.

    Raises:
        InputError: With the fix.
    """
    if os.environ.get(_DEEPSPEED, "").lower() == "true":
        raise InputError(
            "DeepSpeed is not supported, and the launch asks Accelerate for it; take launch/fsdp.yaml, which shards the "
            "weights as well"
        )
    if not fsdp_requested():
        return
    for name, (default, needed, fix) in _FSDP_SETTINGS.items():
        value = os.environ.get(name, default).lower()
        if value != needed:
            raise InputError(f"{name.lower()}={value} is not supported; take launch/fsdp.yaml, or {fix} in yours")
    if config.method.name is MethodName.distill:
        raise InputError("method=distill needs whole weights, which FSDP shards; take launch/multi_gpu.yaml")
    if config.method.name is MethodName.lora:
        raise InputError(
            "method=lora trains too few weights for FSDP to shard; take launch/multi_gpu.yaml, or method=full"
        )
    if config.optimizer.name is not OptimizerName.adamw:
        raise InputError(
            f"optimizer={config.optimizer.name.value} needs whole weights, which FSDP shards; take optimizer=adamw, or "
            "launch/multi_gpu.yaml"
        )
    if config.method.discriminator_weight:
        raise InputError(
            "method.discriminator_weight needs whole weights, which FSDP shards; take method.discriminator_weight=0, or "
            "launch/multi_gpu.yaml"
        )
    for key in ("compile", "compile_regions"):
        if getattr(config, key):
            raise InputError(
                f"{key}=true needs whole weights, which FSDP shards; take {key}=false, or launch/multi_gpu.yaml"
            )


def check_precision(precision: MixedPrecision, device: torch.device) -> None:
    """Refuse a precision that a device does not compute in.

    Raises:
        InputError: With what to take instead.
    """
    if precision is MixedPrecision.fp16 and device.type == "cpu":
        raise InputError("mixed_precision=fp16 needs a GPU; take bf16 or no")
    on_cuda = device.type == "cuda"
    if precision is MixedPrecision.bf16 and on_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise InputError(f"mixed_precision=bf16: {name} does not compute in bf16; take mixed_precision=fp16")


def check_scaler(precision: MixedPrecision, scaler: Any | None) -> None:
    """Refuse fp16 without a gradient scaler: small gradients would become zero.

    Raises:
        InputError: With what to take instead.
    """
    if precision is MixedPrecision.fp16 and scaler is None:
        raise InputError("mixed_precision=fp16: there is no gradient scaler for this device; take bf16 or no")


_PACKAGES = {
    OptimizerName.adamw_8bit: "bitsandbytes",
    OptimizerName.prodigy: "prodigyopt",
    OptimizerName.schedule_free: "schedulefree",
}


def check_optimizer(config: TrainConfig, device: torch.device) -> None:
    """Refuse an optimizer that cannot run here or does not go with the other settings, before anything is built.

    Raises:
        InputError: With the fix.
    """
    name, package = config.optimizer.name, _PACKAGES.get(config.optimizer.name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise InputError(f"optimizer={name.value} needs {package}; pip install riffusion-train[optimizers]")
    if name is OptimizerName.adamw_8bit and device.type not in ("cuda", "xpu"):
        raise InputError(
            f"optimizer=adamw_8bit: bitsandbytes has no 8-bit kernels for {device.type}; take optimizer=adamw"
        )
    text_encoder_lr = config.method.text_encoder_lr
    if name is OptimizerName.prodigy and text_encoder_lr not in (None, config.optimizer.lr):
        raise InputError("optimizer=prodigy finds one learning rate for all weights; take method.text_encoder_lr=null")
    if name is OptimizerName.schedule_free:
        if config.ema.enabled:
            raise InputError("optimizer=schedule_free averages the weights itself; take ema=none")
        if config.schedule.name not in (ScheduleName.constant, ScheduleName.constant_with_warmup):
            raise InputError(
                f"optimizer=schedule_free needs no schedule.name={config.schedule.name.value}; take schedule=warmup or constant"
            )


def check_codec(config: TrainConfig, folder: DatasetFolder, own: SpectrogramConfig | None) -> None:
    """Refuse a dataset whose codec is not what the config asks for, or not the base model's own.

    Args:
        config: The config.
        folder: The dataset.
        own: The base model's codec; None where the model does not say.

    Raises:
        InputError: Naming the fields that differ.
    """
    if config.allow_other_spectrogram:
        return
    preset = None if config.spectrogram_preset is None else load_preset(config.spectrogram_preset)
    for name, codec in ((f"spectrogram_preset={config.spectrogram_preset}", preset), ("the base model's codec", own)):
        differences = [] if codec is None else codec_differences(folder.spectrogram, codec)
        if codec is not None and differences:
            words = " ".join(preset_words(codec))
            raise InputError(
                f"{folder.name}: its spectrogram.json differs from {name}: {', '.join(differences)}; prepare the audio anew "
                f"with riffusion prepare audio=… out=… {words}, or set allow_other_spectrogram=true to teach the model "
                "another one"
            )


def check_image_size(components: Components, folder: DatasetFolder) -> None:
    """Refuse images whose sides the networks cannot halve as often as they must.

    Raises:
        InputError: With the number that both sides must be a multiple of.
    """
    multiple = components.downsampling * 2 ** (len(components.unet.config.block_out_channels) - 1)
    height, width = folder.spectrogram.n_mels, folder.spectrogram.width_px
    if height % multiple or width % multiple:
        raise InputError(
            f"{folder.name}: its images are {width} x {height}, the model needs multiples of {multiple}; prepare the "
            "audio with another spectrogram preset, or take a smaller model"
        )


def check_validation_split(config: TrainConfig, folder: DatasetFolder) -> None:
    """Refuse a dataset without a validation split for a run that depends on one.

    Raises:
        InputError: If the run is to be stopped, or its best checkpoint kept, by a loss that cannot be measured.
    """
    depends = config.validation.patience or config.validation.keep_best or config.validation.num_clips
    if config.validation.every_steps and depends and not folder.num_slices("validation"):
        raise InputError(f"{folder.name}: has no validation split to measure on; prepare it again, or validation=none")
    if config.validation.every_steps and config.validation.num_clips:
        slices = folder.num_slices("validation")
        if slices < KERNEL_CLIPS:
            raise InputError(
                f"{folder.name}: its validation split has {slices} slices, and KID needs at least {KERNEL_CLIPS}; prepare it "
                "again with a larger validation_ratio, or take validation.num_clips=0"
            )


_FREE_TO_CHANGE = (
    "cache_dir",
    "cache_dtype",  # hardly; see `as_begun`
    "cache_gb",
    "cache_on_device",
    "cache_only",
    "cache_part",
    "cache_parts",
    "check",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "dataloader_num_workers",
    "dataset",  # a place; what is there is compared by its fingerprint
    "gradient_accumulation_steps",  # the global batch is compared instead, see Trainer
    "logging_steps",
    "max_train_steps",  # it may grow
    "mirror",
    "model.base",
    "model.path",  # as the dataset
    "model.revision",
    "name",
    "num_threads",
    "preview.",
    "rank_timeout_s",
    "resume",
    "run",
    "tracker.",
    "train_batch_size",
    "validation.",
)
"""Keys that do not change what is learned, so that a resumed run may have other values."""


def check_resumable(run: RunFolder, config: TrainConfig) -> None:
    """Refuse a run folder that this start cannot use.

    Raises:
        InputError: If the folder holds a run and `resume` is not `auto`, or if the two configs would train differently;
            the message names the keys.
    """
    if not run.path.exists() or not any(run.path.iterdir()):
        return
    if not run.config_file.is_file():
        raise InputError(f"run={run.path}: the folder holds files that are not a run; choose another")
    if config.resume is not Resume.auto:
        raise InputError(f"run={run.path}: a run is there; continue it with resume=auto, or choose another folder")
    before, now = config_values(run.read_config()), config_values(config)
    groups = tuple(key for key in _FREE_TO_CHANGE if key.endswith("."))
    free = [key for key in now if key in _FREE_TO_CHANGE or key.startswith(groups)]
    changed = [key for key in now if before[key] != now[key] and key not in free]
    if changed:
        differences = ", ".join(f"{key} was {before[key]}, now {now[key]}" for key in changed)
        raise InputError(f"run={run.path}: cannot go on with other settings: {differences}")
    old, new = before["max_train_steps"], now["max_train_steps"]
    if new < old:
        raise InputError(f"run={run.path}: max_train_steps was {old}, now {new}; it may only grow")
    if new > old and run.final.is_dir() and not Checkpoints(run.checkpoints, config.checkpoints_total_limit).steps():
        raise InputError(
            f"run={run.path}: is finished and has no checkpoint to go on from; start another run from its model: "
            f"model={run.final}"
        )


def check_same_dataset(run: RunFolder, folder: DatasetFolder) -> None:
    """Refuse to go on with a run that was started on other slices, wherever the dataset is now.

    Args:
        run: The run folder, which may hold nothing yet.
        folder: The dataset of this start.

    Raises:
        InputError: If the fingerprints differ.
    """
    if run.manifest_file.is_file() and run.read_manifest()["dataset"]["fingerprint"] != folder.fingerprint:
        raise InputError(
            f"run={run.path}: was started on another dataset than {folder.name} holds now; give the one it was started on "
            f"with dataset=, or go on from its model in another run folder: model={run.path}"
        )


def check_same_base(run: RunFolder, manifest: dict[str, Any]) -> None:
    """Refuse to go on with a run that was started from another model than this start has, wherever it is now.

    Args:
        run: The run folder, which may hold nothing yet.
        manifest: What this start would write.

    Raises:
        InputError: If a fingerprint differs from the run's own; the message names what.
    """
    if not run.manifest_file.is_file():
        return
    before = run.read_manifest()
    known, now = before["base_model"]["fingerprints"], manifest["base_model"]["fingerprints"]
    changed = [part for part in known if known[part] != now.get(part)]
    if changed:
        raise InputError(
            f"run={run.path}: was started from another model than {manifest['base_model']['source']} ({', '.join(changed)} "
            "differ); give the one it was started from with model=, or another run folder"
        )
