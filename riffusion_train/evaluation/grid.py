"""Sampling prompts x models x seeds into an audition site, leaving alone what stands already."""

import dataclasses
import hashlib
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from riffusion_train.audition.site import PAGE_FILE, Cell, Site, Version, write_site
from riffusion_train.config.export import ExportWeights
from riffusion_train.config.sample import Quality, SchedulerName
from riffusion_train.model.components import freeze
from riffusion_train.model.diffusers_folder import SUMMARY_FILE
from riffusion_train.model.lazy import LazyModel, lazy_fingerprint, load_lazy_model
from riffusion_train.model.loading import open_model
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.runtime.progress import ProgressReport
from riffusion_train.sampling.clip import Clip
from riffusion_train.sampling.sampler import ASSUMED_PRESET, Sampler, best_device
from riffusion_train.training.run_folder import Checkpoints, RunFolder
from riffusion_train.training.run_model import FINAL, open_run_model

CLIPS_DIR = "clips"

_SLUG_LENGTH = 40


@dataclasses.dataclass(frozen=True)
class GridSettings:
    """How every clip of a grid is sampled."""

    guidance_scale: float = 7.0
    num_inference_steps: int = 20
    scheduler: SchedulerName = SchedulerName.dpmsolver
    quality: Quality = Quality.normal

    def options(self) -> dict[str, Any]:
        """Return them as the sampler's arguments."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def words(self) -> list[str]:
        """Return them as the words of a command."""
        values = {name: getattr(value, "value", value) for name, value in self.options().items()}
        return [
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
        ]


@dataclasses.dataclass(frozen=True)
class GridModel:
    """A model of the grid. Its weights are read when it is loaded."""

    name: str
    """What it is called on the page."""
    source: str
    """The run, folder, file or hub id that it is from."""
    step: int | None
    """Training steps, where they are known."""
    fingerprint: str
    """Changes with its weights."""
    load: Callable[..., Sampler]
    """Called with the sampler's options."""
    checkpoint: tuple[str, ...] | None = None
    """The words that choose this model from a run; None where `source` is the model itself."""

    def command(self, prompt: str, negative: str, seed: int, settings: GridSettings) -> str:
        """Return the command that makes one clip with this model."""
        texts = ["--prompt", prompt, *(["--negative", negative] if negative else [])]
        if self.checkpoint is None:
            words = ["sample", self.source, *texts, f"seed={seed}"]
        else:
            words = ["evaluate", "grid", self.source, *texts, *self.checkpoint, f"seeds={seed}"]
        return shlex.join(["riffusion", *words, *settings.words(), "out=clips"])


@dataclasses.dataclass(frozen=True)
class _Place:
    """One cell of the grid, and where its files are or will be."""

    model: GridModel
    prompt: str
    seed: int
    stem: str


class Grid:
    """Prompts x models x seeds, in a folder.

    Args:
        folder: The site's folder; it is made where it does not exist.
        models: The models, in the order of the page. No two have the same name.
        prompts: The prompts.
        seeds: The seeds; each is sampled for every prompt.
        negative: What every prompt leads away from.
        settings: How to sample.
        audio_format: The format of the sound, as the end of its files.
        title: The page's title.
        command: The command that makes the grid, for the page.
    """

    def __init__(
        self,
        folder: Path,
        models: Sequence[GridModel],
        prompts: Sequence[str],
        seeds: Sequence[int] = (0,),
        *,
        negative: str = "",
        settings: GridSettings | None = None,
        audio_format: str = "wav",
        title: str = "Audition",
        command: str = "",
    ) -> None:
        self.folder = folder
        self.models = list(models)
        self.negative = negative
        self.settings = settings or GridSettings()
        self.audio_format = audio_format
        self.title = title
        self.command = command
        self._places = [
            _Place(model, prompt, seed, self._stem(model, prompt, seed))
            for model in self.models
            for prompt in dict.fromkeys(prompts)
            for seed in dict.fromkeys(seeds)
        ]

    @property
    def page(self) -> Path:
        """The page."""
        return self.folder / PAGE_FILE

    def __len__(self) -> int:
        """Return the number of clips in all."""
        return len(self._places)

    def standing(self) -> int:
        """Return the number of clips that stand already."""
        return sum(self._stands(place) for place in self._places)

    def make(
        self, *, device: str | None = None, batch_size: int = 4, asked_to_stop: Callable[[], bool] = lambda: False
    ) -> int:
        """Sample what does not stand yet, and write the page; return the number of clips made.

        The page is written after each model, and also where the work is interrupted: it shows what there is.

        Args:
            device: Where to sample; None takes the best there is.
            batch_size: Clips denoised together.
            asked_to_stop: Asked after each clip.

        Raises:
            StoppedError: If asked to stop; the next call goes on.
            InputError: If a model cannot be used or the folder holds something else.
        """
        self._check_folder()
        made, kept = 0, self.standing()
        try:
            with ProgressReport("audition", len(self), done=kept) as progress:
                for model in self.models:
                    wanted = [place for place in self._places if place.model is model and not self._stands(place)]
                    if not wanted:
                        continue
                    for _ in self._sample(model, wanted, device, batch_size):
                        made += 1
                        progress.update(kept + made, model.name)
                        if asked_to_stop():
                            raise StoppedError(f"{kept + made} of {len(self)} clips stand; the same command goes on")
                    self.write_page()
        finally:
            self.write_page()
        return made

    def write_page(self) -> Path:
        """Write the page of the clips that stand."""
        self.folder.mkdir(parents=True, exist_ok=True)
        cells = [
            Cell(
                place.stem,
                place.model.name,
                place.model.command(place.prompt, self.negative, place.seed, self.settings),
                self.audio_format,
            )
            for place in self._places
            if self._stands(place)
        ]
        versions = [Version(model.name, model.source, model.step) for model in self.models]
        return write_site(self.folder, Site(self.title, self.command, versions, cells))

    def _sample(
        self, model: GridModel, wanted: Sequence[_Place], device: str | None, batch_size: int
    ) -> Iterator[_Place]:
        sampler = model.load(device=device, **self.settings.options())
        if sampler.assumed_spectrogram:
            print(f"{model.source} has no spectrogram.json; {ASSUMED_PRESET} is assumed", file=sys.stderr)
        clips = sampler.generate([(place.prompt, self.negative, place.seed) for place in wanted], batch_size=batch_size)
        for place, clip in zip(wanted, clips, strict=True):
            _save_whole(clip, self.folder / place.stem, self.audio_format)
            yield place

    def _stem(self, model: GridModel, prompt: str, seed: int) -> str:
        """Return the clip's place, named by everything that decides it: what stands there can be no other clip."""
        decides = json.dumps([model.fingerprint, prompt, self.negative, seed, self.settings.words()])
        digest = hashlib.blake2b(decides.encode(), digest_size=5).hexdigest()
        # Not by the model's name on the page, which changes with the models beside it.
        home = "-".join([_slug(Path(model.source).name), *([f"step{model.step}"] if model.step is not None else [])])
        return f"{CLIPS_DIR}/{home}-{model.fingerprint[:8]}/{_slug(prompt) or 'empty'}-seed{seed}-{digest}"

    def _stands(self, place: _Place) -> bool:
        """Whether all files of a clip are there; the settings are written last."""
        files = [self.folder / f"{place.stem}.{kind}" for kind in (self.audio_format, "png", "json")]
        return all(file.is_file() for file in files)

    def _check_folder(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"out={self.folder}: is a file; name a folder")
        others = self.folder.is_dir() and any(self.folder.iterdir())
        if others and not (self.folder / CLIPS_DIR).is_dir() and not self.page.exists():
            raise InputError(f"out={self.folder}: holds files that are no audition; choose another folder")
        if self.page.exists() and not (self.folder / CLIPS_DIR).is_dir():
            raise InputError(f"{self.page}: is another page; choose another folder")


def _save_whole(clip: Clip, stem: Path, audio_format: str) -> None:
    """Write a clip beside its place and rename it, its settings last: a clip that is interrupted does not stand."""
    partial = stem.with_name(f".partial-{stem.name}")
    try:
        files = clip.save(partial, audio_format)
        for file in sorted(files, key=lambda path: path.suffix == ".json"):
            file.replace(stem.with_name(stem.name + file.suffix))
    finally:
        for left in stem.parent.glob(f"{partial.name}.*"):  # a slug has nothing that glob would take for a pattern
            left.unlink(missing_ok=True)


def _slug(text: str) -> str:
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:_SLUG_LENGTH].strip("-")


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
        components = load_lazy_model(open_run_model(path, name, weights).whole())
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
    parts = [lazy_fingerprint(model.tensors[part]) for part in sorted(model.tensors)]
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
