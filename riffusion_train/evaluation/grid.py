"""Sampling prompts x models x seeds into an audition site; clips that exist already are kept."""

import dataclasses
import hashlib
import json
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from riffusion_train.audition.site import PAGE_FILE, Cell, Site, Version, write_site
from riffusion_train.config.compose import describe
from riffusion_train.config.denoising import choose_denoising
from riffusion_train.config.model import ExportWeights
from riffusion_train.config.sample import SamplerConfig, sampler_options
from riffusion_train.model.components import freeze
from riffusion_train.model.diffusers_folder import SUMMARY_FILE
from riffusion_train.model.loading import open_model
from riffusion_train.model.weights import LazyModel, lazy_fingerprint, load_lazy_model
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.runtime.files import slug
from riffusion_train.runtime.hub import model_place
from riffusion_train.runtime.progress import ProgressReport
from riffusion_train.sampling.clip import Clip
from riffusion_train.sampling.sampler import Sampler
from riffusion_train.training.run_folder import Checkpoints, RunFolder
from riffusion_train.training.run_model import FINAL, load_guide, open_run_model

CLIPS_DIR = "clips"

_SLUG_LENGTH = 40


_ALWAYS_NAMED = ("guidance_scale", "num_inference_steps", "scheduler", "quality")
"""Options that a clip's command and its file name hold even at their defaults; the others only where they differ."""


def option_arguments(settings: SamplerConfig, recommended: Mapping[str, Any] | None = None) -> list[str]:
    """Return the options that decide a clip as `key=value` arguments of a command.

    Args:
        settings: The user's options.
        recommended: What the model recommends where the user gave none.
    """
    usual = _resolved(SamplerConfig(), {})
    chosen = _resolved(settings, recommended or {})
    others = [name for name in usual if name not in (*_ALWAYS_NAMED, "device")]
    changed = [name for name in others if chosen[name] != usual[name]]
    return [f"{name}={_as_typed(chosen[name])}" for name in (*_ALWAYS_NAMED, *changed)]


def _resolved(settings: SamplerConfig, recommended: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of a sampler, with those of the model or the usual ones where the user gave none."""
    return {**sampler_options(settings), **choose_denoising(vars(settings), recommended)}


def _as_typed(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(f'{one:g}' for one in value)}]"
    return f"{value:g}" if isinstance(value, float) else describe(value)


@dataclasses.dataclass(frozen=True)
class GridModel:
    """A model of the grid. Its weights are read when it is loaded."""

    name: str
    """Its name on the page."""
    source: str
    """The run, folder, file or hub id that it comes from."""
    step: int | None
    """Training steps, if known."""
    fingerprint: str
    """A hash of its weights and codec."""
    load: Callable[..., Sampler]
    """Loads the model; called with the sampler's options."""
    checkpoint: tuple[str, ...] | None = None
    """The arguments that select this model from a run; None if `source` is the model itself."""
    recommended: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The options that it recommends to sample it with."""

    def command(self, prompt: str, negative: str, seed: int, settings: SamplerConfig) -> str:
        """Return the command that makes one clip with this model."""
        texts = ["--prompt", prompt, *(["--negative", negative] if negative else [])]
        if self.checkpoint is None:
            arguments = ["sample", self.source, *texts, f"seed={seed}"]
        else:
            arguments = ["evaluate", "grid", self.source, *texts, *self.checkpoint, f"seeds={seed}"]
        return shlex.join(["riffusion", *arguments, *option_arguments(settings, self.recommended), "out=clips"])


@dataclasses.dataclass(frozen=True)
class GridClip:
    """One clip of the grid, and the stem of its files."""

    model: GridModel
    prompt: str
    seed: int
    stem: str


class Grid:
    """Prompts x models x seeds, in a folder.

    Args:
        folder: The site's folder; it is made if it does not exist.
        models: The models, in the order of the page. No two have the same name.
        prompts: The prompts.
        seeds: The seeds; each is sampled for every prompt.
        negative: The negative prompt of every clip.
        settings: The options of the sampler.
        audio_format: The audio format, as the suffix of its files.
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
        settings: SamplerConfig | None = None,
        audio_format: str = "wav",
        title: str = "Audition",
        command: str = "",
    ) -> None:
        self.folder = folder
        self.models = list(models)
        self.negative = negative
        self.settings = settings or SamplerConfig()
        self.audio_format = audio_format
        self.title = title
        self.command = command
        self._entries = [
            GridClip(model, prompt, seed, self._stem(model, prompt, seed))
            for model in self.models
            for prompt in dict.fromkeys(prompts)
            for seed in dict.fromkeys(seeds)
        ]

    @property
    def page(self) -> Path:
        """The path of the page."""
        return self.folder / PAGE_FILE

    def __len__(self) -> int:
        """Return the number of clips in all."""
        return len(self._entries)

    def count_existing(self) -> int:
        """Return the number of clips that exist already."""
        return sum(self._exists(entry) for entry in self._entries)

    def made(self) -> list[GridClip]:
        """Return the clips that exist, in the order of the page."""
        return [entry for entry in self._entries if self._exists(entry)]

    def make(self, *, batch_size: int = 4, asked_to_stop: Callable[[], bool] = lambda: False) -> int:
        """Sample the clips that do not exist yet, and write the page; return the number of new clips.

        The page is written after each model, and also after an interruption: it shows the clips there are.

        Args:
            batch_size: Clips denoised together.
            asked_to_stop: Called after each clip; True stops.

        Raises:
            StoppedError: If asked to stop; the next call continues.
            InputError: If a model cannot be used or the folder holds something else.
        """
        self._check_folder()
        made, kept = 0, self.count_existing()
        try:
            with ProgressReport("audition", len(self), done=kept) as progress:
                for model in self.models:
                    missing = [entry for entry in self._entries if entry.model is model and not self._exists(entry)]
                    if not missing:
                        continue
                    for _ in self._sample(model, missing, batch_size):
                        made += 1
                        progress.update(kept + made, model.name)
                        if asked_to_stop():
                            raise StoppedError(
                                f"{kept + made} of {len(self)} clips are done; the same command continues"
                            )
                    self.write_page()
        finally:
            self.write_page()
        return made

    def write_page(self) -> Path:
        """Write the page of the clips that exist."""
        self.folder.mkdir(parents=True, exist_ok=True)
        cells = [
            Cell(
                entry.stem,
                entry.model.name,
                entry.model.command(entry.prompt, self.negative, entry.seed, self.settings),
                self.audio_format,
            )
            for entry in self.made()
        ]
        versions = [Version(model.name, model.source, model.step) for model in self.models]
        return write_site(self.folder, Site(self.title, self.command, versions, cells))

    def _sample(self, model: GridModel, entries: Sequence[GridClip], batch_size: int) -> Iterator[GridClip]:
        options = sampler_options(self.settings)
        if options["guide"] is not None:
            options["guide"] = load_guide(options["guide"])
        sampler = model.load(**options)
        if sampler.codec_notice is not None:
            print(sampler.codec_notice, file=sys.stderr)
        texts = [(entry.prompt, self.negative, entry.seed) for entry in entries]
        for entry, clip in zip(entries, sampler.generate(texts, batch_size=batch_size), strict=True):
            save_whole(clip, self.folder / entry.stem, self.audio_format)
            yield entry

    def _stem(self, model: GridModel, prompt: str, seed: int) -> str:
        """Return the stem of a clip's files, which holds a hash of everything that decides the clip."""
        arguments = option_arguments(self.settings, model.recommended)
        deciding = json.dumps([model.fingerprint, prompt, self.negative, seed, arguments])
        digest = hashlib.blake2b(deciding.encode(), digest_size=5).hexdigest()
        # Not by the model's name on the page, which changes with the models beside it.
        parts = [
            slug(Path(model.source).name, _SLUG_LENGTH),
            *([f"step{model.step}"] if model.step is not None else []),
        ]
        folder = f"{CLIPS_DIR}/{'-'.join(parts)}-{model.fingerprint[:8]}"
        return f"{folder}/{slug(prompt, _SLUG_LENGTH) or 'empty'}-seed{seed}-{digest}"

    def _exists(self, entry: GridClip) -> bool:
        """Whether all files of a clip exist; the settings are written last."""
        files = [self.folder / f"{entry.stem}.{kind}" for kind in (self.audio_format, "png", "json")]
        return all(file.is_file() for file in files)

    def _check_folder(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"out={self.folder}: is a file; name a folder")
        others = self.folder.is_dir() and any(self.folder.iterdir())
        if others and not (self.folder / CLIPS_DIR).is_dir() and not self.page.exists():
            raise InputError(f"out={self.folder}: holds files that are no audition; choose another folder")
        if self.page.exists() and not (self.folder / CLIPS_DIR).is_dir():
            raise InputError(f"{self.page}: is another page; choose another folder")


def save_whole(clip: Clip, stem: Path, audio_format: str) -> None:
    """Write all files of a clip beside their names, then rename them, its settings last: on an error, none appears."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=stem.parent) as folder:
        for file in clip.save(Path(folder, stem.name), audio_format):
            file.replace(stem.parent / file.name)


_ALL = "all"


def find_models(sources: Sequence[str], checkpoints: str, weights: ExportWeights) -> list[GridModel]:
    """Open the models of a grid and give them distinct names; no weights stay in memory.

    Args:
        sources: Run folders, checkpoint folders of a run, and models of any kind that can be sampled.
        checkpoints: Of a run: `all`, or `final`, `newest`, `best`, `judged` and steps, separated by commas.
        weights: Which weights of a run.

    Raises:
        InputError: If one cannot be opened.
    """
    selected = [(source, name) for source in dict.fromkeys(sources) for name in _names(source, checkpoints)]
    models: list[GridModel] = []
    with ProgressReport("reading models", len(selected)) as progress:
        for done, (source, name) in enumerate(selected, start=1):
            model = _model(source) if name is None else _checkpoint(source, name, weights)
            twin = next((other for other in models if other.fingerprint == model.fingerprint), None)
            if twin is None:
                models.append(model)
            elif twin.source != source:  # a run's last checkpoint always equals its final model
                print(f"{source} ({model.name}) is the same model as {twin.source} ({twin.name}); it is shown once")
            progress.update(done)
    return _named(models)


def _names(source: str, checkpoints: str) -> list[str | None]:
    """Return the names of the checkpoints of a source, or None for the model itself."""
    path = Path(model_place(source)).expanduser()
    if path.parent.name == "checkpoints" and path.name.startswith("step-"):
        return [path.name.removeprefix("step-")]
    run = RunFolder(path)
    if not run.config_file.is_file() and not run.checkpoints.is_dir():
        return [None]
    if checkpoints != _ALL:
        names = [name.strip() for name in checkpoints.strip("[]() ").split(",") if name.strip()]
        if not names:
            raise InputError(
                "checkpoints=: names none; give all, final, newest, best, judged, or steps separated by commas"
            )
        return list(dict.fromkeys(names))
    config = run.read_config()
    final: list[str | None] = [FINAL] if run.final.is_dir() else []
    if config.method.train_vae_encoder:  # its checkpoints are not whole models
        return final or [FINAL]
    steps = Checkpoints(run.checkpoints, config.checkpoints_total_limit).steps()
    every = [str(int(folder.name.removeprefix("step-"))) for folder in steps] + final
    if not every:
        raise InputError(
            f"{source}: has no checkpoint yet; wait for its first, or train with smaller checkpointing_steps"
        )
    return every


def _checkpoint(source: str, name: str, weights: ExportWeights) -> GridModel:
    path = Path(source).expanduser()
    opened = open_run_model(path, name, weights)

    def load(device: str | None = None, **options: Any) -> Sampler:
        components = load_lazy_model(open_run_model(path, name, weights).whole())
        freeze(components)
        named = dataclasses.replace(components, source=f"{source} ({step}, {opened.weights.value})")
        return Sampler(named, device=device, **options)

    step = f"step {opened.step}"
    return GridModel(
        name=f"{step} (final)" if name == FINAL else step,
        source=source,
        step=opened.step,
        fingerprint=_fingerprint(opened.whole()),
        load=load,
        checkpoint=(f"checkpoints={name if name == FINAL else opened.step}", f"weights={weights.value}"),
        recommended=opened.base.skeleton.sampling,
    )


def _model(source: str) -> GridModel:
    def load(device: str | None = None, **options: Any) -> Sampler:
        return Sampler.load(source, device=device, **options)

    opened = open_model(source)
    folder = Path(model_place(source)).expanduser()
    return GridModel(
        name=folder.name or source,
        source=source,
        step=_trained_steps(folder),
        fingerprint=_fingerprint(opened),
        load=load,
        recommended=opened.skeleton.sampling,
    )


def _trained_steps(folder: Path) -> int | None:
    """Return the training steps that an exported model's summary gives."""
    try:
        step = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))["step"]
        return int(step)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fingerprint(model: LazyModel) -> str:
    """Return a hash of all weights and of the codec: everything in a model that can change a clip."""
    parts = [lazy_fingerprint(model.tensors[part]) for part in sorted(model.tensors)]
    codec = model.skeleton.spectrogram
    deciding = json.dumps([parts, None if codec is None else dataclasses.asdict(codec)], default=str)
    return hashlib.blake2b(deciding.encode(), digest_size=8).hexdigest()


def _named(models: list[GridModel]) -> list[GridModel]:
    """Make names distinct: with several sources, each name begins with its source."""
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
