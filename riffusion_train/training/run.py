"""`riffusion train`: from a config to a trainer that is ready to run, and from a trained run to its final model."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from riffusion_train.config.train import TrackerName, TrainConfig
from riffusion_train.dataset.layout import DatasetFolder, open_dataset_folder
from riffusion_train.dataset.order import AddressedBatches, EpochOrder
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.model.components import Components, fingerprint
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.provenance import git_state, machine, versions
from riffusion_train.training.caches import open_caches
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
from riffusion_train.training.method import FullMethod, apply_method, continue_adapters, make_method, write_final
from riffusion_train.training.optimizer import make_ema, make_optimizer, make_schedule, parameter_groups
from riffusion_train.training.previews import make_preview, preview_prompts
from riffusion_train.training.run_folder import Checkpoints, RunFolder, config_values, new_run_path, whole_path
from riffusion_train.training.run_model import load_start
from riffusion_train.training.throughput import Speedometer
from riffusion_train.training.tracking import MetricsLog, start_tracker
from riffusion_train.training.trainer import Batches, Intervals, Learning, Outputs, Trainer
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
        The run folder.

    Raises:
        InputError: For anything in the config or the dataset that cannot be used, before the first step.
        StoppedError: If asked to stop; the state is saved.
    """
    distribution, run, folder = start_run(config)
    if distribution.from_main(lambda: run.is_finished(config)):
        distribution.print(f"{run.path}: finished before; its model is in {run.final}")
        return run.path
    job = build_job(config, arguments, distribution, run, folder)
    trainer = job.trainer()
    trainer.train()
    with trainer.averaged_weights():
        model = distribution.whole_model(job.components)
        distribution.on_main(lambda: _finish(job, model))
    distribution.end()
    return run.path


def start_run(config: TrainConfig) -> tuple[Distribution, RunFolder, DatasetFolder]:
    """Check what can be checked before the model is loaded; join the other processes, and agree on the run folder.

    Raises:
        InputError: If the config, tracker, dataset, launch, precision, optimizer or run folder cannot be used.
    """
    check_config(config)
    check_tracker(config.tracker)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    folder = open_dataset_folder(config.dataset)
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
    check_same_dataset(run, folder)
    distribution.wait()  # nobody writes into the folder before all have looked
    return distribution, run, folder


def _make_distribution(config: TrainConfig, run: RunFolder) -> Distribution:
    from accelerate.utils import ProjectConfiguration

    return make_distribution(
        rank_timeout_s=config.rank_timeout_s,
        mixed_precision=config.mixed_precision.value,
        log_with=None if config.tracker.name is TrackerName.files else config.tracker.name.value,
        project_config=ProjectConfiguration(project_dir=str(run.path), logging_dir=str(run.path)),
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
    manifest = _manifest(config, folder, base, distribution.world_size)  # before adapters are added to the base
    check_same_base(run, manifest)
    method = make_method(config)
    components = apply_method(config, method, folder, base)
    if adapters is not None:
        continue_adapters(components, method, adapters)
    components.to(distribution.device)
    distribution.shard(components)
    dataset = SpectrogramDataset(folder, "train")
    learning = _make_learning(config, distribution, method, components, dataset)
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


def _manifest(config: TrainConfig, folder: DatasetFolder, base: Components, world_size: int) -> dict[str, Any]:
    fingerprints = {name: fingerprint(module) for name, module in base.modules.items()}
    return {
        "git": git_state(),
        "versions": versions(),
        "machine": machine(),
        "dataset": {"path": whole_path(str(folder.path)), "fingerprint": folder.fingerprint},
        "base_model": {"source": whole_path(base.source), "fingerprints": fingerprints},
        "world_size": world_size,
        "seed": config.seed,
    }


def _make_learning(
    config: TrainConfig,
    distribution: Distribution,
    method: FullMethod,
    components: Components,
    dataset: SpectrogramDataset,
) -> Learning:
    """Return what is trained, of a model whose trainable weights are chosen; the caches are opened or filled here."""
    texts = method.caption_draws() if method.caches_texts else None
    caches = open_caches(distribution, components, dataset, latents=method.caches_latents, texts=texts)
    groups = parameter_groups(components.modules, config.optimizer.lr, config.method.text_encoder_lr)
    optimizer = make_optimizer(config.optimizer, groups)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    ema = make_ema(config.ema, distribution.local_parameters(weights))
    adversary = method.make_adversary(components)
    items = method.make_items(components, dataset, caches)
    return Learning(
        objective=method.make_objective(components, adversary, ema),
        optimizer=optimizer,
        schedule=make_schedule(config.schedule, optimizer, config.max_train_steps),
        ema=ema,
        batches=_make_batches(config, items, len(dataset), distribution),
        slice_name=dataset.slice_name,
        global_batch_size=config.train_batch_size * config.gradient_accumulation_steps * distribution.world_size,
        accumulation=config.gradient_accumulation_steps,
        max_grad_norm=config.max_grad_norm,
        adversary=adversary,
    )


def _make_batches(config: TrainConfig, items: Dataset[Any], num_slices: int, distribution: Distribution) -> Batches:
    def batches(first_step: int) -> Iterator[dict[str, Tensor]]:
        sampler = AddressedBatches(
            EpochOrder(num_slices, config.seed),
            batch_size=config.train_batch_size,
            accumulation=config.gradient_accumulation_steps,
            rank=distribution.rank,
            world_size=distribution.world_size,
            first_step=first_step,
            last_step=config.max_train_steps,
        )
        workers, on_gpu = config.dataloader_num_workers, distribution.device.type == "cuda"
        loader: DataLoader[Any] = DataLoader(items, batch_sampler=sampler, num_workers=workers, pin_memory=on_gpu)
        return _with_plain_errors(iter(loader))

    return batches


def _with_plain_errors(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches; wrong input that a worker process finds is one line, without the traceback that torch adds."""
    try:
        yield from batches
    except InputError as error:
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from None


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
        distribution.print(f"note: {folder.path} has no validation split, so no validation loss is measured")
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
