"""The trainer and its parts, made from the config."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from riffusion_train.config.train import MethodName, TrainConfig
from riffusion_train.dataset.order import AddressedBatches, EpochOrder
from riffusion_train.dataset.spectrograms import LatentItems, PixelItems, SpectrogramDataset, make_tokenize
from riffusion_train.model.components import Components
from riffusion_train.training.averaging import make_ema
from riffusion_train.training.caches import Caches, caches_texts, open_caches
from riffusion_train.training.checkpoint import Checkpoints
from riffusion_train.training.metrics import MetricsLog
from riffusion_train.training.objective import DiffusionObjective, VaeObjective
from riffusion_train.training.optim import make_optimizer, make_schedule, parameter_groups
from riffusion_train.training.preview import make_preview, preview_prompts
from riffusion_train.training.run_folder import RunFolder
from riffusion_train.training.sharding import own_parts
from riffusion_train.training.speed import Speedometer
from riffusion_train.training.trainer import Batches, Rhythm, Trainer
from riffusion_train.training.validation import make_validation


def make_trainer(
    config: TrainConfig, run: RunFolder, accelerator: Any, components: Components, table: SpectrogramDataset
) -> Trainer:
    """Return the trainer that the config describes, over a model whose trainable weights are chosen.

    Raises:
        InputError: If the optimizer or the dataset's caches cannot be used.
        StoppedError: If asked to stop while the caches are filled.
    """
    caches = open_caches(config, components, table, accelerator)
    objective = _make_objective(config, components)
    groups = parameter_groups(objective, config.optimizer.lr, config.method.text_encoder_lr)
    optimizer = make_optimizer(config.optimizer, groups)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    slices = _make_slices(config, components, table, caches)
    global_batch_size = config.train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    return Trainer(
        accelerator=accelerator,
        objective=objective,
        optimizer=optimizer,
        schedule=make_schedule(config.schedule, optimizer, config.max_train_steps),
        ema=make_ema(config.ema, own_parts(weights)),
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
        None if caches_texts(config) else components.text_encoder,
        components.vae,
        DDPMScheduler.from_config(components.scheduler.config),
        snr_gamma=config.objective.snr_gamma,
        train_text_encoder=method.train_text_encoder,
    )


def _make_slices(config: TrainConfig, components: Components, table: SpectrogramDataset, caches: Caches) -> Any:
    latent_shape = components.latent_shape(table.folder.spectrogram)
    if config.method.name is MethodName.vae:
        return PixelItems(table, latent_shape=latent_shape, seed=config.seed)
    return LatentItems(
        table,
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
        return iter(loader)

    return batches


def _make_preview(
    config: TrainConfig, run: RunFolder, components: Components, table: SpectrogramDataset, accelerator: Any
) -> Callable[[int], None]:
    if not config.preview.every_steps:
        return lambda step: None
    held_out = SpectrogramDataset(table.folder, "validation") if table.folder.num_slices("validation") else table
    prompts = preview_prompts(config.preview, held_out)
    return make_preview(config.preview, components, prompts, run.previews, accelerator)
