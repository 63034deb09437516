"""From a config to a trainer that is ready to run, and from a trained run to its final model."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from riffusion_train.config.train import MethodName, TrainConfig
from riffusion_train.dataset.layout import DatasetFolder, open_dataset_folder
from riffusion_train.dataset.spectrograms import SpectrogramDataset, check_slices
from riffusion_train.model.components import Components, fingerprint
from riffusion_train.model.loading import make_components
from riffusion_train.runtime.provenance import git_state, machine, versions
from riffusion_train.training.assembly import make_trainer
from riffusion_train.training.checks import check_codec, check_config
from riffusion_train.training.final import measure_scaling_factor, write_final
from riffusion_train.training.method import adapter_alpha, apply_method
from riffusion_train.training.processes import start_processes, weights_are_shared
from riffusion_train.training.run_folder import RunFolder, check_resumable, check_same_start, config_values
from riffusion_train.training.sharding import shard_components, whole_model
from riffusion_train.training.trackers import check_tracker, start_tracker
from riffusion_train.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """A run that is ready to start: everything loaded, built and on its device."""

    config: TrainConfig
    run: RunFolder
    accelerator: Any
    components: Components
    table: SpectrogramDataset
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
                measure_scaling_factor(vae, job.table, latent_std=config.method.latent_std, seed=config.seed)
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
    table = SpectrogramDataset(folder, "train")
    trainer = make_trainer(config, run, accelerator, components, table)
    return TrainingJob(config, run, accelerator, components, table, trainer)


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
