"""From a config to a trainer that is ready to run, and from a trained run to its final model."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from riffusion_train.config.errors import InputError
from riffusion_train.config.progress import ProgressReport
from riffusion_train.config.provenance import git_state, machine, versions
from riffusion_train.config.train import MethodName, TrackerName, TrainConfig
from riffusion_train.dataset.latents import LatentCache
from riffusion_train.dataset.layout import DatasetFolder, open_dataset_folder
from riffusion_train.dataset.loading import (
    DiffusionSlices,
    Moments,
    PictureSlices,
    SliceTable,
    check_slices,
    make_tokenize,
)
from riffusion_train.dataset.order import AddressedBatches, EpochOrder
from riffusion_train.model.adapt import add_lora, freeze, lora_scale_alpha, unfreeze, unfreeze_vae
from riffusion_train.model.build import make_components
from riffusion_train.model.components import Components, fingerprint
from riffusion_train.model.noise_schedule import trained_scheduler
from riffusion_train.training.averaging import make_ema
from riffusion_train.training.checkpoint import Checkpoints
from riffusion_train.training.checks import check_codec, check_config, check_precision, check_scaler
from riffusion_train.training.final import measure_scaling_factor, write_final
from riffusion_train.training.metrics import MetricsLog
from riffusion_train.training.objective import DiffusionObjective, VaeObjective, encode_moments
from riffusion_train.training.optim import check_optimizer, make_optimizer, make_schedule, parameter_groups
from riffusion_train.training.preview import make_preview, preview_prompts
from riffusion_train.training.run_folder import (
    RunFolder,
    check_resumable,
    check_same_start,
    config_values,
    new_run_path,
)
from riffusion_train.training.speed import Speedometer
from riffusion_train.training.trackers import check_tracker, start_tracker
from riffusion_train.training.trainer import Batches, Rhythm, Trainer
from riffusion_train.training.validation import make_validation

_CACHE_BATCH = 8


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """A run that is ready to start: everything loaded, built and on its device."""

    config: TrainConfig
    run: RunFolder
    accelerator: Any
    components: Components
    table: SliceTable
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
        if config.method.name is MethodName.vae and config.method.train_vae_encoder:
            measure_scaling_factor(components.vae, job.table, latent_std=config.method.latent_std, seed=config.seed)
        if accelerator.is_main_process:
            write_final(run.final, components, lora_alpha=_adapter_alpha(config))
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
    check_slices(SliceTable(folder, "train"), captions=config.method.name is not MethodName.vae)
    accelerator, run = _start_processes(config)
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
    components = _prepare_components(config, folder, base)
    if accelerator.is_main_process:
        run.start(config, words, manifest, folder.spectrogram)
    components.to(accelerator.device)
    start_tracker(accelerator, config.tracker, run.path, config_values(config))
    table = SliceTable(folder, "train")
    trainer = _make_trainer(config, run, accelerator, components, table)
    return TrainingJob(config, run, accelerator, components, table, trainer)


def _start_processes(config: TrainConfig) -> tuple[Any, RunFolder]:
    """Join the other processes, agree on the run folder, and set up the tracker.

    Raises:
        InputError: If this device cannot compute in the precision that was asked for, or the launch shares out the weights.
    """
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration, broadcast_object_list

    sharded = [name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}") == "true"]
    if sharded:
        raise InputError(
            f"accelerate was told to use {sharded[0]}, and each process needs the whole weights here; take "
            "launch/multi_gpu.yaml, or distributed_type: MULTI_GPU in yours"
        )
    if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
        AcceleratorState._reset_state(
            reset_partial_state=True
        )  # a run before this one in the same process, a notebook's
    on_cpu = (
        not torch.accelerator.is_available()
    )  # unless told so, accelerate takes each of several CPU ranks for the only one
    precision = config.mixed_precision
    processes = PartialState(cpu=on_cpu)
    check_precision(precision, processes.device)
    check_optimizer(config, processes.device)
    path = [new_run_path(config)]
    if processes.num_processes > 1:
        broadcast_object_list(path)
    run = RunFolder(path[0])
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision.value,
        log_with=None if config.tracker.name is TrackerName.files else config.tracker.name.value,
        project_config=ProjectConfiguration(project_dir=str(run.path), logging_dir=str(run.path)),
    )
    check_scaler(precision, accelerator.scaler)
    return accelerator, run


def _prepare_components(config: TrainConfig, folder: DatasetFolder, base: Components) -> Components:
    """Fit the model to the dataset, and choose its trainable weights."""
    components = dataclasses.replace(base, spectrogram=folder.spectrogram)
    _check_size(components, folder)
    components.scheduler = trained_scheduler(
        components.scheduler,
        prediction_type=config.objective.prediction_type.value,
        rescale_betas_zero_snr=config.objective.rescale_betas_zero_snr,
    )
    freeze(components)
    # Convolutions in this layout are a sixth of the step faster on a CPU, and what tensor cores want on a GPU.
    components.unet.to(memory_format=torch.channels_last)
    method = config.method
    if method.name is MethodName.vae:
        unfreeze_vae(components.vae, encoder=method.train_vae_encoder)
    elif method.name is MethodName.lora:
        _add_adapters(config, components)
    else:
        unfreeze(components.unet)
        if method.train_text_encoder:
            unfreeze(components.text_encoder)
    trained = components.vae if method.name is MethodName.vae else components.unet
    if config.gradient_checkpointing:
        trained.enable_gradient_checkpointing()
    if config.compile and method.name is not MethodName.vae:
        trained.compile(fullgraph=True)  # in place: the names of the weights stay
    return components


def _add_adapters(config: TrainConfig, components: Components) -> None:
    method = config.method
    options: dict[str, Any] = {
        "rank": method.lora_rank,
        "alpha": method.lora_alpha,
        "use_dora": method.lora_use_dora,
        "use_rslora": method.lora_use_rslora,
    }
    add_lora(
        components.unet, target_modules=method.lora_target_modules, target_blocks=method.lora_target_blocks, **options
    )
    if method.train_text_encoder:
        options["key"] = "method.lora_text_encoder_target_modules"
        add_lora(components.text_encoder, target_modules=method.lora_text_encoder_target_modules, **options)


def _adapter_alpha(config: TrainConfig) -> float | None:
    method = config.method
    if method.name is not MethodName.lora:
        return None
    return lora_scale_alpha(rank=method.lora_rank, alpha=method.lora_alpha, use_rslora=method.lora_use_rslora)


def _check_size(components: Components, folder: DatasetFolder) -> None:
    """Refuse pictures that the networks cannot halve as often as they must."""
    multiple = components.downsampling * 2 ** (len(components.unet.config.block_out_channels) - 1)
    height, width = folder.spectrogram.n_mels, folder.spectrogram.width_px
    if height % multiple or width % multiple:
        raise InputError(
            f"{folder.path}: its pictures are {width} x {height}, the model needs multiples of {multiple}; prepare the "
            "audio with another spectrogram preset, or take a smaller model"
        )


def _make_trainer(
    config: TrainConfig, run: RunFolder, accelerator: Any, components: Components, table: SliceTable
) -> Trainer:
    objective = _make_objective(config, components)
    groups = parameter_groups(objective, config.optimizer.lr, config.method.text_encoder_lr)
    optimizer = make_optimizer(config.optimizer, groups)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = None
    if config.cache_latents and config.method.name is not MethodName.vae:
        moments = _cached_moments(components, table, accelerator)
    slices = _make_slices(config, components, table, moments)
    global_batch_size = config.train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    return Trainer(
        accelerator=accelerator,
        objective=objective,
        optimizer=optimizer,
        schedule=make_schedule(config.schedule, optimizer, config.max_train_steps),
        ema=make_ema(config.ema, weights),
        batches=_make_batches(config, slices, len(table), accelerator),
        name_slice=table.where,
        checkpoints=Checkpoints(run.checkpoints, config.checkpoints_total_limit),
        metrics=MetricsLog(
            run.metrics_file,
            accelerator,
            Speedometer(
                accelerator.device,
                config.mixed_precision.value,
                images_per_step=global_batch_size,
                world_size=accelerator.num_processes,
                clip_s=table.folder.spectrogram.clip_s,
            ),
        ),
        validation=make_validation(config, run.metrics_file, components, table.folder, accelerator),
        preview=_make_preview(config, run, components, table, accelerator),
        rhythm=Rhythm(
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
        components.text_encoder,
        components.vae,
        DDPMScheduler.from_config(components.scheduler.config),
        snr_gamma=config.objective.snr_gamma,
        train_text_encoder=method.train_text_encoder,
    )


def _make_slices(config: TrainConfig, components: Components, table: SliceTable, moments: Moments | None) -> Any:
    latent_shape = components.latent_shape(table.folder.spectrogram)
    if config.method.name is MethodName.vae:
        return PictureSlices(table, latent_shape=latent_shape, seed=config.seed)
    return DiffusionSlices(
        table,
        make_tokenize(components.tokenizer),
        moments=moments,
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
        return iter(loader)

    return batches


def latent_cache(components: Components, table: SliceTable) -> LatentCache:
    """Return the cache of a dataset's latents under the model's VAE, whether or not it is there yet."""
    vae, scale, size = components.vae, components.downsampling, table.folder.spectrogram
    shape = (2 * int(vae.config.latent_channels), size.n_mels // scale, size.width_px // scale)
    return LatentCache(table, f"{table.folder.fingerprint[:16]}-{fingerprint(vae)[:16]}", shape)


def _cached_moments(components: Components, table: SliceTable, accelerator: Any) -> Moments:
    """Open the latent cache; let all ranks build it together where it is missing."""
    cache = latent_cache(components, table)
    there = cache.exists()
    accelerator.wait_for_everyone()
    if not there:
        if accelerator.is_main_process:
            cache.create()
        accelerator.wait_for_everyone()
        _fill_cache(cache, components.vae, accelerator)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            cache.finish()
        accelerator.wait_for_everyone()
    return cache.open()


def _fill_cache(cache: LatentCache, vae: Any, accelerator: Any) -> None:
    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        return encode_moments(vae, pixels.to(accelerator.device))

    rank, world_size = accelerator.process_index, accelerator.num_processes
    share = len(range(rank, cache.shape[0], world_size))
    with ProgressReport("encode latents", share, enabled=accelerator.is_main_process) as progress:
        cache.fill(
            encode,
            batch_size=_CACHE_BATCH,
            rank=rank,
            world_size=world_size,
            report=lambda done, total: progress.update(done),
        )


def _make_preview(
    config: TrainConfig, run: RunFolder, components: Components, table: SliceTable, accelerator: Any
) -> Callable[[int], None]:
    if not config.preview.every_steps:
        return lambda step: None
    held_out = SliceTable(table.folder, "validation") if table.folder.num_slices("validation") else table
    prompts = preview_prompts(config.preview, held_out)
    return make_preview(config.preview, components, prompts, run.previews, accelerator)


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
