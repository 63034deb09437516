"""`riffusion train`: from a config to a trainer that is ready to run, and from a trained run to its final model."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from riffusion_train.config.train import TrackerName, TrainConfig
from riffusion_train.dataset.cache import CACHE_DIR
from riffusion_train.dataset.layout import DatasetFolder
from riffusion_train.dataset.order import Order
from riffusion_train.dataset.spectrograms import SpectrogramDataset, choose_window, make_order, noted_order
from riffusion_train.dataset.store import open_training_data
from riffusion_train.model.components import Components, fingerprint
from riffusion_train.runtime.hub import Lease
from riffusion_train.runtime.provenance import git_state, machine, versions
from riffusion_train.training.caches import StepCaches, cache_options, make_batches
from riffusion_train.training.checks import (
    check_codec,
    check_config,
    check_launch,
    check_optimizer,
    check_precision,
    check_resumable,
    check_same_base,
    check_same_dataset,
    check_scaler,
    check_slices,
    check_tracker,
    check_validation_split,
)
from riffusion_train.training.distribution import Distribution, broadcast, join_processes, make_distribution
from riffusion_train.training.method import (
    FullMethod,
    apply_method,
    choose_attention,
    continue_adapters,
    make_method,
    write_final,
)
from riffusion_train.training.mirror import fetch_together, leased_mirror, mirrored
from riffusion_train.training.optimizer import make_ema, make_optimizer, make_schedule, parameter_groups
from riffusion_train.training.previews import make_preview, preview_prompts
from riffusion_train.training.run_folder import (
    Checkpoints,
    RunFolder,
    as_begun,
    config_values,
    new_run_path,
    whole_path,
)
from riffusion_train.training.run_model import load_start
from riffusion_train.training.step_data import Caches
from riffusion_train.training.tracking import MetricsLog, Speedometer, start_tracker
from riffusion_train.training.trainer import Intervals, Learning, Outputs, Trainer
from riffusion_train.training.validation import Validation


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """A run that is ready to start: everything loaded, built and on its device."""

    config: TrainConfig
    run: RunFolder
    distribution: Distribution
    method: FullMethod
    components: Components
    dataset: SpectrogramDataset
    learning: Learning
    outputs: Outputs
    intervals: Intervals

    def trainer(self) -> Trainer:
        """Return the trainer of the run; call it once."""
        return Trainer(self.distribution, self.learning, self.outputs, self.intervals)


def run_training(config: TrainConfig, arguments: Sequence[str]) -> Path:
    """Train as the config says, from the newest checkpoint where there is one, and write the final model.

    Args:
        config: The whole config.
        arguments: The command line's overrides, for the record.

    Returns:
        The run folder; with `cache_only`, the folder of the caches.

    Raises:
        InputError: For anything in the config or the dataset that cannot be used, before the first step.
        StoppedError: If asked to stop; the state is saved.
    """
    config = as_begun(config)
    with leased_mirror(config) as lease:
        return _run(config, arguments, lease)


def _run(config: TrainConfig, arguments: Sequence[str], lease: Lease | None) -> Path:
    distribution, run, folder = start_run(config, lease)
    if distribution.from_main(lambda: run.is_finished(config)):
        distribution.print(f"{run.path}: finished before; its model is in {run.final}")
        with mirrored(config, run, distribution, lease):  # it may have ended before everything was uploaded
            return run.path
    if config.cache_only:
        return _fill_caches(config, distribution, folder)
    job = build_job(config, arguments, distribution, run, folder)
    trainer = job.trainer()
    with mirrored(config, run, distribution, lease):
        trainer.train()
        with trainer.averaged_weights():
            model = distribution.whole_model(job.components)
            distribution.on_main(lambda: _finish(job, model))
    distribution.end()
    return run.path


def _fill_caches(config: TrainConfig, distribution: Distribution, folder: DatasetFolder) -> Path:
    """Fill the caches as `cache_only=true` asks; return the folder that they are in."""
    base, _ = load_start(config)
    check_codec(config, folder, base.spectrogram)
    method, dataset = make_method(config), SpectrogramDataset(folder, "train")
    components = apply_method(config, method, folder, base)
    components.to(distribution.device)
    order = make_order(dataset, config.seed, None)
    _step_caches(config, distribution, method, components, dataset, order).fill(config.cache_part, config.cache_parts)
    distribution.end()
    return cache_options(config)["directory"] or folder.path / CACHE_DIR


def start_run(config: TrainConfig, lease: Lease | None = None) -> tuple[Distribution, RunFolder, DatasetFolder]:
    """Check what can be checked before the model is loaded; join the other processes, and agree on the run folder.

    Args:
        config: The whole config.
        lease: Of the run's mirror, to be taken; None fetches nothing.

    Raises:
        InputError: If the config, tracker, dataset, launch, precision, optimizer, run folder or mirror cannot be used.
    """
    check_config(config)
    check_tracker(config.tracker)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    folder = open_training_data(config)
    folder.require_parquet()
    check_slices(SpectrogramDataset(folder, "train"), captions=make_method(config).trains_on_captions)
    check_launch(config)
    device, world_size = join_processes(config.rank_timeout_s)
    check_precision(config.mixed_precision, device)
    check_optimizer(config, device)
    run = RunFolder(broadcast(new_run_path(config), world_size))
    distribution = _make_distribution(config, run)
    check_scaler(config.mixed_precision, distribution.scaler)
    check_resumable(run, config)
    distribution.wait()
    fetch_together(config, run, distribution, lease)
    check_resumable(run, config)
    check_same_dataset(run, folder)
    distribution.wait()  # nobody writes into the folder before all have looked
    return distribution, run, folder


def _make_distribution(config: TrainConfig, run: RunFolder) -> Distribution:
    return make_distribution(
        run.path,
        rank_timeout_s=config.rank_timeout_s,
        # A step that is accumulated sends nothing, and the discriminator's loss is not there from the first step on.
        static_graph=config.gradient_accumulation_steps == 1 and not config.method.discriminator_weight,
        mixed_precision=config.mixed_precision.value,
        log_with=None if config.tracker.name is TrackerName.files else config.tracker.name.value,
    )


def build_job(
    config: TrainConfig, arguments: Sequence[str], distribution: Distribution, run: RunFolder, folder: DatasetFolder
) -> TrainingJob:
    """Load or build everything that the run needs, and write what a start leaves in the run folder.

    Raises:
        InputError: If the model, the optimizer or a cache cannot be used, or not with this dataset.
        StoppedError: If asked to stop while the caches are filled.
    """
    base, adapters = load_start(config)
    check_codec(config, folder, base.spectrogram)
    dataset = SpectrogramDataset(folder, "train")
    manifest = _manifest(config, dataset, base, distribution.world_size)  # before adapters are added to the base
    check_same_base(run, manifest)
    method = make_method(config)
    components = apply_method(config, method, folder, base)
    if adapters is not None:
        continue_adapters(components, method, adapters)
    components.to(distribution.device)
    choose_attention(components, config.mixed_precision, distribution.device)
    distribution.shard(components)
    order = noted_order(dataset, run.read_manifest() if run.manifest_file.is_file() else manifest)
    learning = _make_learning(config, distribution, method, components, dataset, order, run)
    outputs = Outputs(
        checkpoints=Checkpoints(run.checkpoints, config.checkpoints_total_limit),
        metrics=_make_metrics(config, run, distribution, folder, learning.global_batch_size),
        validation=_make_validation(config, run, distribution, method, components, folder),
        preview=_make_preview(config, run, distribution, components, dataset),
    )
    intervals = Intervals(
        max_train_steps=config.max_train_steps,
        checkpointing_steps=config.checkpointing_steps,
        logging_steps=config.logging_steps,
        preview_steps=config.preview.every_steps,
    )
    # Only now, for nothing that refuses to start may leave a run folder behind.
    distribution.on_main(lambda: run.start(config, arguments, manifest, folder.spectrogram))
    start_tracker(distribution.accelerator, config.tracker, run.path, config_values(config))
    return TrainingJob(config, run, distribution, method, components, dataset, learning, outputs, intervals)


def _finish(job: TrainingJob, model: Components) -> None:
    """Write the final model. Called on the first rank, with the averaged weights in place."""
    job.method.finish(model, job.dataset, job.distribution.device)
    write_final(job.run.final, model, job.method)


def _manifest(config: TrainConfig, dataset: SpectrogramDataset, base: Components, world_size: int) -> dict[str, Any]:
    folder = dataset.folder
    fingerprints = {name: fingerprint(module) for name, module in base.modules.items()}
    return {
        "git": git_state(),
        "versions": versions(),
        "machine": machine(),
        "dataset": {"path": whole_path(folder.name), "fingerprint": folder.fingerprint},
        "base_model": {"source": whole_path(base.source), "fingerprints": fingerprints},
        "world_size": world_size,
        "seed": config.seed,
        "order": {"window": choose_window(dataset, config.shuffle_window, config.cache_gb)},
    }


def _make_learning(
    config: TrainConfig,
    distribution: Distribution,
    method: FullMethod,
    components: Components,
    dataset: SpectrogramDataset,
    order: Order,
    run: RunFolder,
) -> Learning:
    """Return what is trained, of a model whose trainable weights are chosen; the caches are opened or filled here."""
    caches = _step_caches(config, distribution, method, components, dataset, order)
    # What the next steps need is there or refused now, when no run folder has been made yet.
    caches.open(*next(caches.stretches(run.newest_step(), config.max_train_steps), (0, 0)))
    groups = parameter_groups(components.modules, config.optimizer.lr, config.method.text_encoder_lr)
    optimizer = make_optimizer(config.optimizer, groups)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    ema = make_ema(config.ema, distribution.local_parameters(weights))
    adversary = method.make_adversary(components)

    def items(opened: Caches) -> Dataset[Any]:
        return method.make_items(components, dataset, opened)

    return Learning(
        objective=method.compile(
            method.make_objective(components, dataset.folder.spectrogram, adversary, ema), components
        ),
        optimizer=optimizer,
        schedule=make_schedule(config.schedule, optimizer, config.max_train_steps),
        ema=ema,
        batches=make_batches(
            caches,
            items,
            dataset,
            order,
            workers=config.dataloader_num_workers,
            hold=config.cache_on_device,
            last_step=config.max_train_steps,
            batch_size=config.train_batch_size,
            accumulation=config.gradient_accumulation_steps,
            rank=distribution.rank,
            world_size=distribution.world_size,
        ),
        slice_name=dataset.slice_name,
        global_batch_size=config.train_batch_size * config.gradient_accumulation_steps * distribution.world_size,
        accumulation=config.gradient_accumulation_steps,
        max_grad_norm=config.max_grad_norm,
        adversary=adversary,
    )


def _step_caches(
    config: TrainConfig,
    distribution: Distribution,
    method: FullMethod,
    components: Components,
    dataset: SpectrogramDataset,
    order: Order,
) -> StepCaches:
    return StepCaches(
        distribution,
        components,
        dataset,
        latents=method.caches_latents,
        texts=method.caption_draws() if method.caches_texts else None,
        order=order,
        global_batch_size=config.train_batch_size * config.gradient_accumulation_steps * distribution.world_size,
        **cache_options(config),
    )


def _make_metrics(
    config: TrainConfig, run: RunFolder, distribution: Distribution, folder: DatasetFolder, global_batch_size: int
) -> MetricsLog:
    speed = Speedometer(
        distribution.device,
        config.mixed_precision.value,
        images_per_step=global_batch_size,
        world_size=distribution.world_size,
        clip_s=folder.spectrogram.clip_s,
    )
    return MetricsLog(run.metrics_file, distribution, speed)


def _make_validation(
    config: TrainConfig,
    run: RunFolder,
    distribution: Distribution,
    method: FullMethod,
    components: Components,
    folder: DatasetFolder,
) -> Validation | None:
    """Return the measurement of the held-out loss; None where none is asked for or nothing is held out."""
    settings = config.validation
    check_validation_split(config, folder)
    if not settings.every_steps:
        return None
    if not folder.num_slices("validation"):
        distribution.print(f"note: {folder.name} has no validation split, so no validation loss is measured")
        return None
    trained, held_out = SpectrogramDataset(folder, "train"), SpectrogramDataset(folder, "validation")
    judge = None
    if settings.num_clips:
        from riffusion_train.training.judging import TrainingJudge  # scipy and the listeners take time to import

        judge = TrainingJudge(settings, components, trained, held_out, distribution)
    return Validation(
        method.make_held_out(components, held_out, distribution.device),
        distribution,
        run.metrics_file,
        every_steps=settings.every_steps,
        patience=settings.patience,
        keep_best=settings.keep_best,
        judge=judge,
        monitor=settings.monitor.value,
    )


def _make_preview(
    config: TrainConfig,
    run: RunFolder,
    distribution: Distribution,
    components: Components,
    dataset: SpectrogramDataset,
) -> Callable[[int], None]:
    if not config.preview.every_steps:
        return lambda step: None
    folder = dataset.folder
    held_out = SpectrogramDataset(folder, "validation") if folder.num_slices("validation") else None
    prompts = preview_prompts(config.preview, dataset, held_out)
    return make_preview(config.preview, components, prompts, run.previews, distribution, folder.fingerprint)
