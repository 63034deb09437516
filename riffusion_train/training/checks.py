"""What is wrong with a training config, its dataset or this machine, said in one line before anything is built."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from riffusion_train.config.spectrogram import SpectrogramConfig, load_preset
from riffusion_train.config.train import MethodName, MixedPrecision, PredictionType, TrainConfig
from riffusion_train.dataset.layout import DatasetFolder
from riffusion_train.runtime.errors import InputError

_AT_LEAST_ONE = (
    "max_train_steps",
    "train_batch_size",
    "gradient_accumulation_steps",
    "logging_steps",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "method.lora_rank",
    "validation.num_slices",
)
_NOT_NEGATIVE = (
    "dataloader_num_workers",
    "schedule.num_warmup_steps",
    "preview.every_steps",
    "validation.every_steps",
    "optimizer.weight_decay",
    "objective.noise_offset",
    "objective.input_perturbation",
    "method.kl_weight",
    "ema.update_after_step",
)
_ABOVE_ZERO = (
    "optimizer.lr",
    "optimizer.eps",
    "max_grad_norm",
    "method.lora_alpha",
    "method.latent_std",
    "ema.inv_gamma",
    "ema.power",
)
_ABOVE_ZERO_OR_NULL = ("method.text_encoder_lr", "objective.snr_gamma")
_AT_LEAST_ONE_OR_NULL = ("num_threads", "validation.patience")
_BELOW_ONE = ("optimizer.beta1", "optimizer.beta2", "ema.decay")


def check_config(config: TrainConfig) -> None:
    """Refuse numbers out of range and settings that cannot go together.

    Raises:
        InputError: For the first one found; the message names the key and the mend.
    """
    _check_range(config, _AT_LEAST_ONE, lambda value: value >= 1, "must be 1 or more")
    _check_range(config, _NOT_NEGATIVE, lambda value: value >= 0, "must be 0 or more")
    _check_range(config, _ABOVE_ZERO, lambda value: value > 0, "must be above 0")
    _check_range(config, _ABOVE_ZERO_OR_NULL, lambda value: value is None or value > 0, "must be above 0, or null")
    _check_range(config, _AT_LEAST_ONE_OR_NULL, lambda value: value is None or value >= 1, "must be 1 or more, or null")
    _check_range(config, _BELOW_ONE, lambda value: 0 <= value < 1, "must be from 0 to below 1")
    _check_range(config, ("objective.proportion_empty_prompts",), lambda value: 0 <= value <= 1, "must be from 0 to 1")
    objective, method = config.objective, config.method
    if objective.rescale_betas_zero_snr and objective.prediction_type is PredictionType.epsilon:
        raise InputError(
            "objective.rescale_betas_zero_snr=true: pure noise tells nothing about epsilon; take "
            "objective.prediction_type=v_prediction"
        )
    if method.train_text_encoder and method.name is MethodName.vae:
        raise InputError(
            "method.train_text_encoder=true: method=vae trains on pictures alone; take method=full or lora"
        )
    if method.text_encoder_lr is not None and not method.train_text_encoder:
        raise InputError("method.text_encoder_lr is set; add method.train_text_encoder=true")
    if not config.validation.every_steps and (config.validation.patience or config.validation.keep_best):
        raise InputError("validation.patience and validation.keep_best need validation.every_steps")


def _check_range(config: TrainConfig, keys: tuple[str, ...], good: Callable[[Any], bool], rule: str) -> None:
    for key in keys:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        if not good(value):
            raise InputError(f"{key}={value}: {rule}")


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
    wanted = None if config.spectrogram_preset is None else load_preset(config.spectrogram_preset)
    for name, codec in ((f"spectrogram_preset={config.spectrogram_preset}", wanted), ("the base model's codec", own)):
        differences = [] if codec is None else _differences(folder.spectrogram, codec)
        if differences:
            raise InputError(
                f"{folder.path}: its spectrogram.json differs from {name}: {', '.join(differences)}; prepare the audio with "
                "the same preset, or set allow_other_spectrogram=true to teach the model another one"
            )


def _differences(found: SpectrogramConfig, wanted: SpectrogramConfig) -> list[str]:
    """Return the fields in which two codecs differ, their names left aside."""
    fields = [field.name for field in dataclasses.fields(SpectrogramConfig) if field.name != "name"]
    pairs = {name: (_plain(getattr(found, name)), _plain(getattr(wanted, name))) for name in fields}
    return [f"{name} is {one}, not {other}" for name, (one, other) in pairs.items() if one != other]


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
