"""The model that a run made, at its end or at any of its checkpoints, opened without reading its weights."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from riffusion_train.config.export import ExportWeights
from riffusion_train.config.model import ModelName
from riffusion_train.config.spectrogram import SpectrogramConfig, load_spectrogram
from riffusion_train.config.train import MethodName, OptimizerName, TrainConfig
from riffusion_train.model.architecture import trained_scheduler
from riffusion_train.model.lazy import LazyModel, as_lazy_model, lazy_fingerprint
from riffusion_train.model.loading import make_components, open_model
from riffusion_train.model.lora import LORA_FILE, Lora, from_peft, lora_scale_alpha, merge_lora, read_lora
from riffusion_train.model.safetensors_io import open_tensors
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.run_folder import RunFolder
from riffusion_train.training.state import Checkpoints

FINAL, NEWEST, BEST = "final", "newest", "best"


@dataclasses.dataclass(frozen=True)
class RunModel:
    """What a run made."""

    run: RunFolder
    config: TrainConfig
    manifest: dict[str, Any]
    step: int
    """Optimizer steps that its weights have seen."""
    weights: ExportWeights
    """Which weights these are; `raw` where the run keeps no average."""
    base: LazyModel
    """The whole model; of a LoRA run, the model without its adapters."""
    lora: Lora | None
    """The adapters of a LoRA run."""

    def whole(self) -> LazyModel:
        """Return the model with its adapters merged in."""
        return self.base if self.lora is None else merge_lora(self.base, self.lora)


def open_run_model(path: Path, checkpoint: str, weights: ExportWeights) -> RunModel:
    """Open the model of a run.

    Args:
        path: The run folder, or the folder of one of its checkpoints.
        checkpoint: A step, `final`, `newest` or `best`; with the folder of a checkpoint, `final` means that one.
        weights: Which weights.

    Raises:
        InputError: If this is no run, if it has no such checkpoint, or if its base is not what it was trained from.
    """
    if path.parent.name == "checkpoints" and path.name.startswith("step-"):
        checkpoint = path.name.removeprefix("step-") if checkpoint == FINAL else checkpoint
        path = path.parent.parent
    run = RunFolder(path)
    config = run.read_config()
    if not run.manifest_file.is_file():
        raise InputError(f"run={path}: has no manifest.json; the run never started")
    manifest = json.loads(run.manifest_file.read_text(encoding="utf-8"))
    averaged = config.ema.enabled or config.optimizer.name is OptimizerName.schedule_free
    kept = weights if averaged else ExportWeights.raw
    last_step = _last_step(run, config)
    is_lora = config.method.name is MethodName.lora
    if checkpoint == FINAL and (weights is ExportWeights.ema or not averaged):
        if not run.final.is_dir():
            raise InputError(
                f"run={path}: not finished (no final/); go on with riffusion train … resume=auto, or take checkpoint=newest"
            )
        if not is_lora:
            return RunModel(run, config, manifest, last_step, kept, open_model(str(run.final)), None)
        base = _base(run, config, manifest, load_spectrogram(run.final))
        lora = read_lora(run.final / LORA_FILE, base.skeleton.modules, "the run's base")
        lora = dataclasses.replace(lora, spectrogram=base.skeleton.spectrogram)
        return RunModel(run, config, manifest, last_step, kept, base, lora)
    folder = _checkpoint(run, config, checkpoint)
    if config.method.train_vae_encoder:
        raise InputError(
            f"run={path}: a trained VAE encoder's scale is measured at the end; take checkpoint=final weights=ema"
        )
    codec = _codec(run, config)
    base = _base(run, config, manifest, codec)
    tensors, _ = open_tensors(folder / ("trained.safetensors" if kept is ExportWeights.raw else "ema.safetensors"))
    step = int(folder.name.removeprefix("step-"))
    if is_lora:
        loaded = {name: tensor.load() for name, tensor in tensors.items()}
        method = config.method
        alpha = lora_scale_alpha(rank=method.lora_rank, alpha=method.lora_alpha, use_rslora=method.lora_use_rslora)
        return RunModel(run, config, manifest, step, kept, base, from_peft(loaded, alpha, codec, str(folder)))
    try:
        whole = base.replaced(tensors)
    except KeyError as error:
        raise InputError(f"{folder}: its weight {error} is not one of the run's base") from None
    return RunModel(run, config, manifest, step, kept, whole, None)


def _checkpoint(run: RunFolder, config: TrainConfig, checkpoint: str) -> Path:
    """Find the folder of a checkpoint; the final weights as they were trained are in the last one."""
    checkpoints = Checkpoints(run.checkpoints, config.checkpoints_total_limit)
    there, best = checkpoints.steps(), checkpoints.best()
    if checkpoint == NEWEST and there:
        return there[-1]
    if checkpoint == BEST:
        if best is None:
            raise InputError(
                f"checkpoint=best: {run.path} kept none; train with validation.keep_best=true, or take newest"
            )
        return best
    wanted = str(_last_step(run, config)) if checkpoint == FINAL else checkpoint
    found = [folder for folder in there if wanted.isdigit() and int(folder.name.removeprefix("step-")) == int(wanted)]
    if not found:
        steps = ", ".join(str(int(folder.name.removeprefix("step-"))) for folder in there) or "none"
        raise InputError(f"checkpoint={checkpoint}: {run.path} has no such checkpoint; it has: {steps}")
    return found[0]


def _last_step(run: RunFolder, config: TrainConfig) -> int:
    """Return the step that a finished run ended with: its last checkpoint's, since it may have stopped early."""
    there = Checkpoints(run.checkpoints, config.checkpoints_total_limit).steps()
    return int(there[-1].name.removeprefix("step-")) if there else config.max_train_steps


def _codec(run: RunFolder, config: TrainConfig) -> SpectrogramConfig:
    for folder in (run.path, Path(config.dataset).expanduser()):
        codec = load_spectrogram(folder) if folder.is_dir() else None
        if codec is not None:
            return codec
    raise InputError(f"run={run.path}: has no spectrogram.json, and its dataset {config.dataset} is not there to ask")


def _base(run: RunFolder, config: TrainConfig, manifest: dict[str, Any], codec: SpectrogramConfig | None) -> LazyModel:
    """Open the model that the run started from, with the run's codec and the scheduler of its target."""
    if config.model.name is ModelName.random:
        model = as_lazy_model(make_components(config.model, config.seed))
    else:
        model = open_model(str(config.model.path), config.model.revision)
    known = manifest["base_model"]["fingerprints"]
    changed = [part for part in known if known[part] != lazy_fingerprint(model.tensors[part])]
    if changed:
        raise InputError(
            f"run={run.path}: its base {model.skeleton.source} is not what it was trained from ({', '.join(changed)} "
            "changed); put the old one back, or export a finished run"
        )
    parts_now = model.skeleton
    scheduler = trained_scheduler(
        parts_now.scheduler,
        prediction_type=config.objective.prediction_type.value,
        rescale_betas_zero_snr=config.objective.rescale_betas_zero_snr,
    )
    return dataclasses.replace(model, skeleton=dataclasses.replace(parts_now, scheduler=scheduler, spectrogram=codec))
