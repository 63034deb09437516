"""The model that a run made, at its end or at any of its checkpoints, opened without reading its weights."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from riffusion_train.config.model import ExportWeights, ModelConfig, ModelName
from riffusion_train.config.spectrogram import SpectrogramConfig, load_spectrogram
from riffusion_train.config.train import MethodName, OptimizerName, TrainConfig
from riffusion_train.model.components import Components, freeze
from riffusion_train.model.loading import is_lora, make_components, open_model
from riffusion_train.model.lora import LORA_FILE, Lora, merge_lora, read_lora
from riffusion_train.model.weights import LazyModel, as_lazy_model, lazy_fingerprint, load_lazy_model, open_tensors
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.hub import MODELS, model_place
from riffusion_train.training.method import as_trained, make_method
from riffusion_train.training.run_folder import CHECKPOINT_DIR, RUN_FILE, Checkpoints, RunFolder, require_whole, step_of

FINAL, NEWEST, BEST, JUDGED = "final", "newest", "best", "judged"
JUDGED_FILE = "best.json"
"""In the `scores/` of a run: the checkpoint that `riffusion evaluate run` chose."""


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
        model = self.base if self.lora is None else merge_lora(self.base, self.lora)
        skeleton = dataclasses.replace(model.skeleton, dataset_fingerprint=self.manifest["dataset"]["fingerprint"])
        return dataclasses.replace(model, skeleton=skeleton)


def load_start(config: TrainConfig) -> tuple[Components, Lora | None]:
    """Load or build the model that a run starts from; and with `method=lora`, the adapters that it goes on with, if any.

    Raises:
        InputError: If there is no such model, or if it cannot be used.
    """
    if config.model.name is ModelName.random or not config.model.path:
        return make_components(config.model, config.seed), None
    model, lora = open_start(config.model, apart=config.method.name is MethodName.lora)
    return load_lazy_model(model), lora


def open_start(config: ModelConfig, *, apart: bool) -> tuple[LazyModel, Lora | None]:
    """Open what a run with `model=PATH` starts from: a model, the model of a run, or a LoRA and its base.

    Args:
        config: The path, the base and the revision.
        apart: Whether adapters are returned by themselves, to be trained further; else they are merged into their base.

    Raises:
        InputError: If there is nothing usable there, or if the base of a LoRA is not known.
    """
    path = Path(model_place(str(config.path))).expanduser()
    if (path / RUN_FILE).is_file() or path.parent.name == CHECKPOINT_DIR:
        checkpoint = NEWEST if (path / RUN_FILE).is_file() and not RunFolder(path).final.is_dir() else FINAL
        opened = open_run_model(path, checkpoint, ExportWeights.ema, config.base)
        base, lora = opened.base, opened.lora
    elif not is_lora(str(path)):
        return open_model(str(config.path), config.revision), None
    else:
        if config.base is not None:
            base = open_model(config.base)
        elif (path.parent / RUN_FILE).is_file():
            base = _open_run(path.parent, None).base_model()
        else:
            raise InputError(f"model={config.path}: is a LoRA; give the model that it is for with model.base=PATH")
        lora = read_lora(path, base.skeleton.modules, base.skeleton.source)
    if lora is None or apart:
        return base, lora
    merged = merge_lora(base, lora)
    codec = lora.spectrogram or base.skeleton.spectrogram
    skeleton = dataclasses.replace(merged.skeleton, spectrogram=codec, source=str(config.path))
    return dataclasses.replace(merged, skeleton=skeleton), None


def open_run_model(path: Path, checkpoint: str, weights: ExportWeights, base: str | None = None) -> RunModel:
    """Open the model of a run.

    Args:
        path: The run folder, or the folder of one of its checkpoints.
        checkpoint: A step, `final`, `newest`, `best` or `judged`; with the folder of a checkpoint, `final` means that one.
        weights: Which weights.
        base: Where the model is that the run was started from; None is where it was then.

    Raises:
        InputError: If this is no run, if it has no such checkpoint, or if its base is not what it was trained from.
    """
    if path.parent.name == CHECKPOINT_DIR and path.name.startswith("step-"):
        checkpoint = path.name.removeprefix("step-") if checkpoint == FINAL else checkpoint
        path = path.parent.parent
    opened = _open_run(path, base)
    config = opened.config
    if checkpoint == JUDGED:
        checkpoint = judged_checkpoint(opened.run)
    averaged = config.ema.enabled or config.optimizer.name is OptimizerName.schedule_free
    if checkpoint == FINAL and (weights is ExportWeights.ema or not averaged):
        return opened.final(weights if averaged else ExportWeights.raw)
    return opened.at_checkpoint(checkpoint, weights if averaged else ExportWeights.raw)


def judged_checkpoint(run: RunFolder) -> str:
    """Return the checkpoint of a run that `riffusion evaluate run` chose: a step, or `final`.

    Raises:
        InputError: If nothing was judged, or the file that names it is damaged.
    """
    file = run.scores / JUDGED_FILE
    if not file.is_file():
        raise InputError(f"checkpoint=judged: {run.path} was not judged; first riffusion evaluate run {run.path}")
    try:
        checkpoint = json.loads(file.read_text(encoding="utf-8"))["checkpoint"]
        if checkpoint != FINAL:
            checkpoint = str(int(checkpoint))
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{file}: is damaged; make it again with riffusion evaluate run {run.path}") from None
    return str(checkpoint)


def load_guide(source: str) -> Components:
    """Load the weaker model of autoguidance: a checkpoint's folder or a run, or a model of any kind.

    Args:
        source: `RUN/checkpoints/step-…`, `RUN` for its final model, a diffusers folder, a single file or a hub id.

    Raises:
        InputError: If there is nothing usable there.
    """
    path = Path(model_place(source)).expanduser()
    if not ((path / RUN_FILE).is_file() or path.parent.name == CHECKPOINT_DIR):
        components = load_lazy_model(open_model(source))
    else:
        opened = open_run_model(path, FINAL, ExportWeights.ema)
        components = dataclasses.replace(load_lazy_model(opened.whole()), source=source)
    freeze(components)
    return components


def _open_run(path: Path, base: str | None) -> "_OpenRun":
    run = RunFolder(path)
    return _OpenRun(run, run.read_config(), run.read_manifest(), base)


@dataclasses.dataclass(frozen=True)
class _OpenRun:
    """A run whose model is being opened."""

    run: RunFolder
    config: TrainConfig
    manifest: dict[str, Any]
    base: str | None
    """Where the base model is now; None is where it was."""

    def final(self, weights: ExportWeights) -> RunModel:
        """Return the model that the run ended with."""
        folder, step = self.run.final, self._last_step()
        if not folder.is_dir():
            raise InputError(
                f"run={self.run.path}: not finished (no final/); continue it with riffusion train … resume=auto, or take "
                "checkpoint=newest"
            )
        if not self.config.method.trains_adapters:
            model = open_model(str(folder))
            model = dataclasses.replace(model, skeleton=as_trained(model.skeleton, self.config))
            return RunModel(self.run, self.config, self.manifest, step, weights, model, None)
        base = self.base_model()
        lora = read_lora(folder / LORA_FILE, base.skeleton.modules, "the run's base")
        lora = dataclasses.replace(lora, spectrogram=base.skeleton.spectrogram)
        return RunModel(self.run, self.config, self.manifest, step, weights, base, lora)

    def at_checkpoint(self, checkpoint: str, weights: ExportWeights) -> RunModel:
        """Return the model as it was at a checkpoint."""
        folder = self._checkpoint(checkpoint)
        if self.config.method.train_vae_encoder:
            raise InputError(
                f"run={self.run.path}: a trained VAE encoder's scale is measured at the end; take checkpoint=final "
                "weights=ema"
            )
        require_whole(folder)
        base = self.base_model()
        tensors, _ = open_tensors(
            folder / ("trained.safetensors" if weights is ExportWeights.raw else "ema.safetensors")
        )
        step = step_of(folder)
        if self.config.method.trains_adapters:
            loaded = {name: tensor.load() for name, tensor in tensors.items()}
            lora = make_method(self.config).adapters(loaded, base.skeleton.spectrogram, str(folder))
            return RunModel(self.run, self.config, self.manifest, step, weights, base, lora)
        try:
            whole = base.replaced(tensors)
        except KeyError as error:
            raise InputError(f"{folder}: its weight {error} is not one of the run's base") from None
        return RunModel(self.run, self.config, self.manifest, step, weights, whole, None)

    def base_model(self) -> LazyModel:
        """Open the model that the run started from, with the run's codec and the scheduler of its target."""
        config = self.config
        if config.model.name is ModelName.random:
            model = as_lazy_model(make_components(config.model, config.seed))
        else:
            start = dataclasses.replace(config.model, path=self._base_place())
            model, _ = open_start(start, apart=config.method.name is MethodName.lora)
        known = self.manifest["base_model"]["fingerprints"]
        changed = [part for part in known if known[part] != lazy_fingerprint(model.tensors[part])]
        if changed:
            raise InputError(
                f"run={self.run.path}: its base {model.skeleton.source} is not what it was trained from "
                f"({', '.join(changed)} changed); give the old one with base=PATH, or export a finished run"
            )
        skeleton = dataclasses.replace(model.skeleton, spectrogram=self._codec())
        return dataclasses.replace(model, skeleton=as_trained(skeleton, config))

    def _base_place(self) -> str:
        """Return where the base model is: version 0.1.0 kept relative paths, which may be relative to a folder of the run's."""
        if self.base is not None:
            return self.base
        source = str(self.manifest["base_model"]["source"])
        if source in MODELS:
            return source
        if source.startswith("random weights"):  # of the LoRA run that this one went on from
            return str(self.config.model.path)
        for folder in (Path(), *self.run.path.absolute().parents):
            if (place := folder / Path(source).expanduser()).exists():
                return str(place)
        if Path(source).is_absolute() or source.count("/") != 1:  # else it may be a hub id
            raise InputError(f"run={self.run.path}: its base {source} is not there; give its new place with base=PATH")
        return source

    def _codec(self) -> SpectrogramConfig:
        codec = load_spectrogram(self.run.path)
        if codec is None:
            raise InputError(f"run={self.run.path}: has no spectrogram.json; copy that of its dataset into it")
        return codec

    def _checkpoint(self, checkpoint: str) -> Path:
        """Return the folder of a checkpoint; the final weights as they were trained are in the last one."""
        checkpoints = Checkpoints(self.run.checkpoints, self.config.checkpoints_total_limit)
        folders, best = checkpoints.steps(), checkpoints.best()
        if checkpoint == NEWEST and folders:
            return folders[-1]
        if checkpoint == BEST:
            if best is None:
                raise InputError(
                    f"checkpoint=best: {self.run.path} kept none; train with validation.keep_best=true, or take newest"
                )
            return best
        step = str(self._last_step()) if checkpoint == FINAL else checkpoint
        for folder in folders:
            if step.isdigit() and step_of(folder) == int(step):
                return folder
        steps = ", ".join(str(step_of(folder)) for folder in folders) or "none"
        raise InputError(f"checkpoint={checkpoint}: {self.run.path} has no such checkpoint; it has: {steps}")

    def _last_step(self) -> int:
        """Return the step that a finished run ended with: its last checkpoint's, since it may have stopped early."""
        folders = Checkpoints(self.run.checkpoints, self.config.checkpoints_total_limit).steps()
        return step_of(folders[-1]) if folders else self.config.max_train_steps
