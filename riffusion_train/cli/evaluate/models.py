"""The models of a grid: every checkpoint that was asked for of every run, and models as they are."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riffusion_train.config.export import ExportWeights
from riffusion_train.evaluation.grid import GridModel
from riffusion_train.export.run_model import FINAL, open_run_model
from riffusion_train.export.summary import SUMMARY_FILE
from riffusion_train.model.components import freeze
from riffusion_train.model.lazy import LazyModel, read_components, stored_fingerprint
from riffusion_train.model.loading import open_model
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.progress import ProgressReport
from riffusion_train.sampling.sampler import Sampler, best_device
from riffusion_train.training.run_folder import RunFolder
from riffusion_train.training.state import Checkpoints

ALL = "all"


def find_models(sources: Sequence[str], checkpoints: str, weights: ExportWeights) -> list[GridModel]:
    """Open the models of a grid and tell them apart; no weights stay in memory.

    Args:
        sources: Run folders, folders of a run's checkpoint, and models of any kind that can be sampled.
        checkpoints: Of a run: `all`, or `final`, `newest`, `best` and steps with commas between them.
        weights: Which weights of a run.

    Raises:
        InputError: If one cannot be opened.
    """
    wanted = [(source, name) for source in dict.fromkeys(sources) for name in _names(source, checkpoints)]
    models: list[GridModel] = []
    with ProgressReport("reading models", len(wanted)) as progress:
        for done, (source, name) in enumerate(wanted, start=1):
            model = _model(source) if name is None else _checkpoint(source, name, weights)
            twin = next((other for other in models if other.fingerprint == model.fingerprint), None)
            if twin is None:
                models.append(model)
            elif twin.source != source:  # that a run's last checkpoint is its final model goes without saying
                print(f"{source} ({model.name}) is the same model as {twin.source} ({twin.name}); it is shown once")
            progress.update(done)
    return _named(models)


def _names(source: str, checkpoints: str) -> list[str | None]:
    """Return what to take of a source: the names of checkpoints, or None for the model itself."""
    path = Path(source).expanduser()
    if path.parent.name == "checkpoints" and path.name.startswith("step-"):
        return [path.name.removeprefix("step-")]
    run = RunFolder(path)
    if not run.config_file.is_file() and not run.checkpoints.is_dir():
        return [None]
    if checkpoints != ALL:
        names = [name.strip() for name in checkpoints.strip("[]() ").split(",") if name.strip()]
        if not names:
            raise InputError("checkpoints=: names none; take all, final, newest, best, or steps with commas between")
        return list(dict.fromkeys(names))
    config = run.read_config()
    final: list[str | None] = [FINAL] if run.final.is_dir() else []
    if config.method.train_vae_encoder:  # its checkpoints are no whole models
        return final or [FINAL]
    steps = Checkpoints(run.checkpoints, config.checkpoints_total_limit).steps()
    found = [str(int(folder.name.removeprefix("step-"))) for folder in steps] + final
    if not found:
        raise InputError(
            f"{source}: has no checkpoint yet; wait for its first, or train with smaller checkpointing_steps"
        )
    return found


def _checkpoint(source: str, name: str, weights: ExportWeights) -> GridModel:
    path = Path(source).expanduser()
    opened = open_run_model(path, name, weights)

    def load(device: str | None = None, **options: Any) -> Sampler:
        components = read_components(open_run_model(path, name, weights).whole())
        freeze(components)
        named = dataclasses.replace(components, source=f"{source} ({step}, {opened.weights.value})")
        return Sampler(named, device=device or best_device(), **options)

    step = f"step {opened.step}"
    return GridModel(
        name=f"{step} (final)" if name == FINAL else step,
        source=source,
        step=opened.step,
        fingerprint=_fingerprint(opened.whole()),
        load=load,
        checkpoint=(f"checkpoints={name if name == FINAL else opened.step}", f"weights={weights.value}"),
    )


def _model(source: str) -> GridModel:
    def load(device: str | None = None, **options: Any) -> Sampler:
        return Sampler.load(source, device=device, **options)

    opened = open_model(source)
    folder = Path(source).expanduser()
    return GridModel(
        name=folder.name or source,
        source=source,
        step=_trained_steps(folder),
        fingerprint=_fingerprint(opened),
        load=load,
    )


def _trained_steps(folder: Path) -> int | None:
    """Return the steps that an exported model says it has seen."""
    try:
        step = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))["step"]
        return int(step)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fingerprint(model: LazyModel) -> str:
    """Return a hash of all weights and of the codec: whatever changes a clip."""
    parts = [stored_fingerprint(model.tensors[part]) for part in sorted(model.tensors)]
    codec = model.skeleton.spectrogram
    said = json.dumps([parts, None if codec is None else dataclasses.asdict(codec)], default=str)
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def _named(models: list[GridModel]) -> list[GridModel]:
    """Name models apart: where there are several sources, each name begins with its own."""
    sources = list(dict.fromkeys(model.source for model in models))
    shorts = Counter(Path(source).name for source in sources)
    named = []
    for model in models:
        short = Path(model.source).name
        short = short if shorts[short] == 1 and short else model.source
        full = [short] if len(sources) > 1 or model.checkpoint is None else []
        full += [] if model.checkpoint is None else [model.name]
        named.append(dataclasses.replace(model, name=" · ".join(full)))
    repeats = Counter(model.name for model in named)
    return [
        model
        if repeats[model.name] == 1
        else dataclasses.replace(model, name=f"{model.name} [{model.fingerprint[:6]}]")
        for model in named
    ]
