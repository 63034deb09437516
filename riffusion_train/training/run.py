"""From a config to a trainer that is ready to run, and from a trained run to its final model."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from riffusion_train.config.train import MethodName, TrainConfig
from riffusion_train.dataset.layout import DatasetFolder, open_dataset_folder
from riffusion_train.dataset.order import AddressedBatches, EpochOrder
from riffusion_train.dataset.spectrograms import (
    LatentItems,
    PixelItems,
    SpectrogramDataset,
    check_slices,
    make_tokenize,
)
from riffusion_train.model.components import Components, fingerprint
from riffusion_train.model.loading import make_components
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.provenance import git_state, machine, versions
from riffusion_train.training.caches import Caches, caches_texts, open_caches
from riffusion_train.training.checks import check_codec, check_config
from riffusion_train.training.distribution import (
    own_parts,
    shard_components,
    start_processes,
    weights_are_shared,
    whole_model,
)
from riffusion_train.training.method import adapter_alpha, apply_method, measure_scaling_factor, write_final
from riffusion_train.training.objective import DiffusionObjective, VaeObjective
from riffusion_train.training.optimizer import make_ema, make_optimizer, make_schedule, parameter_groups
from riffusion_train.training.previews import make_preview, preview_prompts
from riffusion_train.training.run_folder import RunFolder, check_resumable, check_same_start, config_values
from riffusion_train.training.state import Checkpoints
from riffusion_train.training.throughput import Speedometer
from riffusion_train.training.tracking import MetricsLog, check_tracker, start_tracker
from riffusion_train.training.trainer import Batches, Intervals, Trainer
from riffusion_train.training.validation import make_validation


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """A run that is ready to start: everything loaded, built and on its device."""

    config: TrainConfig
    run: RunFolder
    accelerator: Any
    components: Components
    dataset: SpectrogramDataset
    trainer: Trainer


def run_training(config: TrainConfig, words: Sequence[str]) -> Path:
    """Train as the config says, from the newest checkpoint where there is one, and write the final model.

    Args:
        config: The whole config.
        words: The command line's overrides, for the record.

    Returns:
        The run folder.

    Raises:
        InputError: For anything in the config or the dataset that cannot be used, before the first step.
        StoppedError: If asked to stop; the state is saved.
    """
    accelerator, run, folder = start_run(config)
    if run.final.is_dir():
        accelerator.print(f"{run.path}: finished before; its model is in {run.final}")
        return run.path
    job = build_job(config, words, accelerator, run, folder)
    components, trainer = job.components, job.trainer
    trainer.train()
    with trainer.averaged_weights():
        model = whole_model(components, accelerator)
        if accelerator.is_main_process:
            if config.method.name is MethodName.vae and config.method.train_vae_encoder:
                vae = model.vae.to(accelerator.device)
                measure_scaling_factor(vae, job.dataset, latent_std=config.method.latent_std, seed=config.seed)
            write_final(run.final, model, lora_alpha=adapter_alpha(config))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return run.path


def start_run(config: TrainConfig) -> tuple[Any, RunFolder, DatasetFolder]:
    """Check what can be checked before the model is loaded; join the other processes, and agree on the run folder.

    Raises:
        InputError: If the tracker, the dataset, the precision or the run folder cannot be used.
    """
    check_config(config)
    check_tracker(config.tracker)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    folder = open_dataset_folder(config.dataset)
    folder.require_parquet()
    check_slices(SpectrogramDataset(folder, "train"), captions=config.method.name is not MethodName.vae)
    accelerator, run = start_processes(config)
    check_resumable(run, config)
    accelerator.wait_for_everyone()
    return accelerator, run, folder


def build_job(
    config: TrainConfig, words: Sequence[str], accelerator: Any, run: RunFolder, folder: DatasetFolder
) -> TrainingJob:
    """Load or build everything that the run needs, and write what a start leaves in the run folder.

    Raises:
        InputError: If the model cannot be used, or not with this dataset.
    """
    base = make_components(config.model, config.seed)
    check_codec(config, folder, base.spectrogram)
    manifest = _manifest(config, folder, base, accelerator.num_processes)  # before adapters are added to it
    check_same_start(run, manifest)
    components = apply_method(config, folder, base)
    if accelerator.is_main_process:
        run.start(config, words, manifest, folder.spectrogram)
    components.to(accelerator.device)
    if weights_are_shared(accelerator):
        shard_components(components, accelerator)
    start_tracker(accelerator, config.tracker, run.path, config_values(config))
    dataset = SpectrogramDataset(folder, "train")
    trainer = make_trainer(config, run, accelerator, components, dataset)
    return TrainingJob(config, run, accelerator, components, dataset, trainer)


def _manifest(config: TrainConfig, folder: DatasetFolder, base: Components, world_size: int) -> dict[str, Any]:
    fingerprints = {name: fingerprint(module) for name, module in base.modules.items()}
    return {
        "git": git_state(),
        "versions": versions(),
        "machine": machine(),
        "dataset": {"path": str(folder.path), "fingerprint": folder.fingerprint},
        "base_model": {"source": base.source, "fingerprints": fingerprints},
        "world_size": world_size,
        "seed": config.seed,
    }


def make_trainer(
    config: TrainConfig, run: RunFolder, accelerator: Any, components: Components, dataset: SpectrogramDataset
) -> Trainer:
    """Return the trainer that the config describes, over a model whose trainable weights are chosen.

    Raises:
        InputError: If the optimizer or the dataset's caches cannot be used.
        StoppedError: If asked to stop while the caches are filled.
    """
    caches = open_caches(config, components, dataset, accelerator)
    objective = _make_objective(config, components)
    groups = parameter_groups(objective, config.optimizer.lr, config.method.text_encoder_lr)
    optimizer = make_optimizer(config.optimizer, groups)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    slices = _make_slices(config, components, dataset, caches)
    global_batch_size = config.train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    return Trainer(
        accelerator=accelerator,
        objective=objective,
        optimizer=optimizer,
        schedule=make_schedule(config.schedule, optimizer, config.max_train_steps),
        ema=make_ema(config.ema, own_parts(weights)),
        batches=_make_batches(config, slices, len(dataset), accelerator),
        name_slice=dataset.slice_name,
        checkpoints=Checkpoints(run.checkpoints, config.checkpoints_total_limit),
        metrics=MetricsLog(
            run.metrics_file,
            accelerator,
            Speedometer(
                accelerator.device,
                config.mixed_precision.value,
                images_per_step=global_batch_size,
                world_size=accelerator.num_processes,
                clip_s=dataset.folder.spectrogram.clip_s,
            ),
        ),
        validation=make_validation(config, run.metrics_file, components, dataset.folder, accelerator),
        preview=_make_preview(config, run, components, dataset, accelerator),
        intervals=Intervals(
            max_train_steps=config.max_train_steps,
            checkpointing_steps=config.checkpointing_steps,
            logging_steps=config.logging_steps,
            preview_steps=config.preview.every_steps,
            accumulation=config.gradient_accumulation_steps,
            max_grad_norm=config.max_grad_norm,
        ),
        global_batch_size=global_batch_size,
    )


def _make_objective(config: TrainConfig, components: Components) -> nn.Module:
    from diffusers import DDPMScheduler

    method = config.method
    if method.name is MethodName.vae:
        return VaeObjective(components.vae, kl_weight=method.kl_weight, train_encoder=method.train_vae_encoder)
    return DiffusionObjective(
        components.unet,
        None if caches_texts(config) else components.text_encoder,
        components.vae,
        DDPMScheduler.from_config(components.scheduler.config),
        snr_gamma=config.objective.snr_gamma,
        train_text_encoder=method.train_text_encoder,
    )


def _make_slices(config: TrainConfig, components: Components, dataset: SpectrogramDataset, caches: Caches) -> Any:
    latent_shape = components.latent_shape(dataset.folder.spectrogram)
    if config.method.name is MethodName.vae:
        return PixelItems(dataset, latent_shape=latent_shape, seed=config.seed)
    return LatentItems(
        dataset,
        make_tokenize(components.tokenizer),
        moments=caches.moments,
        texts=caches.texts,
        latent_shape=latent_shape,
        seed=config.seed,
        num_train_timesteps=int(components.scheduler.config.num_train_timesteps),
        proportion_empty_prompts=config.objective.proportion_empty_prompts,
        noise_offset=config.objective.noise_offset,
        input_perturbation=config.objective.input_perturbation,
    )


def _make_batches(config: TrainConfig, slices: Any, num_slices: int, accelerator: Any) -> Batches:
    def batches(first_step: int) -> Iterator[dict[str, Tensor]]:
        sampler = AddressedBatches(
            EpochOrder(num_slices, config.seed),
            batch_size=config.train_batch_size,
            accumulation=config.gradient_accumulation_steps,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            first_step=first_step,
            last_step=config.max_train_steps,
        )
        workers = config.dataloader_num_workers
        loader: DataLoader[Any] = DataLoader(
            slices, batch_sampler=sampler, num_workers=workers, pin_memory=accelerator.device.type == "cuda"
        )
        return _with_plain_errors(iter(loader))

    return batches


def _with_plain_errors(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches; wrong input that a worker process finds is one line, without the traceback that torch adds."""
    try:
        yield from batches
    except InputError as error:
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from None


def _make_preview(
    config: TrainConfig, run: RunFolder, components: Components, dataset: SpectrogramDataset, accelerator: Any
) -> Callable[[int], None]:
    if not config.preview.every_steps:
        return lambda step: None
    held_out = SpectrogramDataset(dataset.folder, "validation") if dataset.folder.num_slices("validation") else dataset
    prompts = preview_prompts(config.preview, held_out)
    return make_preview(config.preview, components, prompts, run.previews, accelerator)
