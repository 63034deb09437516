"""The commands of the demo: their plan, and a runner that measures each and skips those that are done."""

import contextlib
import dataclasses
import importlib
import json
import math
import multiprocessing
import os
import resource
import runpy
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from riffusion_train.config.sample import DemoConfig
from riffusion_train.config.spectrogram import SpectrogramConfig, preset_words
from riffusion_train.model.loading import open_model
from riffusion_train.runtime.errors import EXIT_FAULT, EXIT_STOPPED, InputError, StoppedError
from riffusion_train.runtime.files import write_json
from riffusion_train.runtime.hub import DEFAULT_MODEL, has_pretrained
from riffusion_train.runtime.progress import StopRequest
from riffusion_train.runtime.provenance import usable_cores

SCORES_FILE = "scores.json"
_RECORD_FILE = "steps.json"
_IMPORTED_ONCE = (
    "riffusion_train.evaluation.score",
    "riffusion_train.export.write",
    "riffusion_train.sampling.sampler",
    "riffusion_train.training.run",
)

NUM_REAL = 128
"""Held-out slices that the clips are compared with: enough for KID, and heard in half a minute."""
HELD_OUT_STYLE = "chiptune"
"""The style of the music that the demo composes to fine-tune `laptop`, which that model has never heard (docs/laptop.md)."""

_PROGRAM = "riffusion_train"
RECOMMENDED = {"guidance_scale": 2, "scheduler": "euler", "num_inference_steps": 8}
"""How the model from nothing is best sampled; docs/sampling.md has the measurement."""
_MIN_CLIPS, _MIN_STEPS, _MIN_SAMPLES = 24, 4, 4


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How much the demo makes, at scale 1."""

    clips: int
    """Of the composed corpus."""
    validation_ratio: float
    samples: int
    """Clips that are sampled from a model and judged."""
    steps: int
    """Of the UNet and the text encoder."""
    vae_steps: int = 0

    def num_samples(self, scale: float) -> int:
        """Return how many clips are sampled."""
        return min(self.samples, _scaled(self.samples, scale, _MIN_SAMPLES))


FROM_NOTHING = Recipe(clips=1800, validation_ratio=0.18, samples=96, steps=2100, vae_steps=500)
"""Of conf/experiment/demo_vae.yaml and demo.yaml, for twelve minutes on two cores."""
FINE_TUNED = Recipe(clips=280, validation_ratio=0.3, samples=32, steps=200)
"""Of conf/experiment/laptop_finetune.yaml, for eight minutes on two cores."""


@dataclasses.dataclass(frozen=True)
class Base:
    """The model that the demo fine-tunes."""

    name: str
    """As the user calls it."""
    codec: SpectrogramConfig


def choose_base(config: DemoConfig) -> Base | None:
    """Return the model to fine-tune; None to train one from nothing.

    Raises:
        InputError: If there is no such model, or it does not say which codec its images have.
    """
    name = config.base or (DEFAULT_MODEL if has_pretrained() else "none")
    if name == "none":
        return None
    codec = open_model(name).skeleton.spectrogram
    if codec is None:
        raise InputError(f"base={name}: does not say its codec; riffusion import {name} out=DIR codec=PRESET sets it")
    return Base(name, codec)


@dataclasses.dataclass(frozen=True)
class Step:
    """One command of the demo."""

    name: str
    """What it does, in a few words."""
    module: str
    """The Python module that is run: `riffusion_train` or one of data_prep's."""
    arguments: tuple[str, ...]
    """Its command line."""
    output: Path
    """What exists once it is done."""
    before: Callable[[], None] | None = None
    """Called just before the command is run."""

    @property
    def command(self) -> str:
        """The command as a user would type it."""
        program = "riffusion" if self.module == "riffusion_train" else f"python -m {self.module}"
        return f"{program} {shlex.join(self.arguments)}"


class DemoFolder:
    """The paths of everything that the demo makes.

    Args:
        path: The folder of the demo.
        audio_dir: The user's own audio; None for the composed corpus.
    """

    def __init__(self, path: Path, audio_dir: Path | None) -> None:
        self.path = path
        self.audio = audio_dir or path / "audio"
        self.dataset = path / "dataset"
        self.vae_run = path / "vae"
        self.run = path / "run"
        self.model = path / "model"
        self.prompts = path / "prompts.txt"
        self.before = path / "before"
        """Clips of the base model."""
        self.samples = path / "samples"
        self.scores_before = path / "scores-before"
        self.scores = path / "scores"


def plan_steps(
    config: DemoConfig, folder: DemoFolder, base: Base | None, write_prompts: Callable[[], None]
) -> list[Step]:
    """Return the commands of the demo, in order.

    Args:
        config: The options of the demo.
        folder: Its paths.
        base: The model to fine-tune; None to train one from nothing.
        write_prompts: Writes `folder.prompts`, once the dataset exists.
    """
    plan = _Plan(config, folder, FROM_NOTHING if base is None else FINE_TUNED)
    compose = [] if config.audio_dir is not None else [plan.compose("exercises" if base is None else HELD_OUT_STYLE)]
    if base is None:
        codec = ["spectrogram=tiny"]
        learn = plan.train_from_nothing()
    else:
        codec = preset_words(base.codec)
        learn = [
            plan.sample("sample the base model", base.name, folder.before, write_prompts),
            plan.judge("judge the base model", folder.before, folder.scores_before),
            plan.fine_tune(base),
        ]
    return [
        *compose,
        plan.prepare(codec),
        *learn,
        plan.export({} if base is not None else RECOMMENDED),
        plan.sample("sample prompts and invert them to sound", str(folder.model), folder.samples, write_prompts),
        plan.judge("compare the clips with real music and search for copies", folder.samples, folder.scores),
    ]


class _Plan:
    """The steps of the demo, one by one, with the sizes of a recipe."""

    def __init__(self, config: DemoConfig, folder: DemoFolder, recipe: Recipe) -> None:
        self._config, self._folder, self._recipe = config, folder, recipe
        self._common = [f"seed={config.seed}", f"num_threads={config.num_threads or usable_cores()}"]

    def compose(self, music: str) -> Step:
        """Compose exercises, or music in one style."""
        config, audio = self._config, self._folder.audio
        words = [
            f"out={audio}",
            f"clips={_scaled(self._recipe.clips, config.scale, _MIN_CLIPS)}",
            f"seed={config.seed}",
        ]
        words += [] if music == "exercises" else ["kind=music", f"styles={music}"]
        words += [] if config.soundfont is None else [f"soundfont={config.soundfont}"]
        return Step("compose and render the corpus", "data_prep.corpus", tuple(words), audio / "metadata.jsonl")

    def prepare(self, codec: Sequence[str]) -> Step:
        folder = self._folder
        words = [f"audio={folder.audio}", f"out={folder.dataset}", *codec]
        words += [f"validation_ratio={self._recipe.validation_ratio}", self._common[0]]
        return _step("prepare the dataset", "prepare", words, folder.dataset / "stats.json")

    def train_from_nothing(self) -> list[Step]:
        vae, run, recipe = self._folder.vae_run, self._folder.run, self._recipe
        return [
            self._train("train the VAE", ["experiment=demo_vae"], vae, recipe.vae_steps),
            self._train(
                "train the UNet and the text encoder", ["experiment=demo", f"model={vae / 'final'}"], run, recipe.steps
            ),
        ]

    def fine_tune(self, base: Base) -> Step:
        words = ["experiment=laptop_finetune", f"model={base.name}"]
        return self._train("fine-tune the base model", words, self._folder.run, self._recipe.steps)

    def _train(self, name: str, words: Sequence[str], run: Path, steps: int) -> Step:
        words = [*words, f"dataset={self._folder.dataset}", f"run={run}"]
        words += [f"max_train_steps={_scaled(steps, self._config.scale, _MIN_STEPS)}", "resume=auto", *self._common]
        return _step(name, "train", words, run / "final")

    def export(self, recommended: Mapping[str, object]) -> Step:
        words = [f"run={self._folder.run}", f"out={self._folder.model}"]
        words += [f"recommended.{name}={value}" for name, value in recommended.items()]
        return _step("export the model", "export", words, self._folder.model)

    def sample(self, name: str, model: str, out: Path, write_prompts: Callable[[], None]) -> Step:
        words = [model, "--prompts", str(self._folder.prompts), f"out={out}"]
        words += ["batch_size=16", "unet_batch_size=16", "vary_seed=true", *self._common]
        return _step(name, "sample", words, out, before=write_prompts)

    def judge(self, name: str, clips: Path, scores: Path) -> Step:
        # Copies are flagged by their images: hearing all training slices as well would take minutes.
        words = [str(clips), f"real={self._folder.dataset}", f"out={scores}", f"num_real={NUM_REAL}"]
        words += ["hear_slices=false", *self._common]
        return _step(name, "evaluate", ["score", *words], scores / SCORES_FILE)


def _step(
    name: str, verb: str, arguments: Sequence[str], output: Path, before: Callable[[], None] | None = None
) -> Step:
    return Step(name, _PROGRAM, (verb, *arguments), output, before)


def _scaled(number: int, scale: float, minimum: int) -> int:
    return max(minimum, math.ceil(number * scale))


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What a step took."""

    name: str
    command: str
    seconds: float
    """Wall time, summed over all times it was started."""
    peak_mb: float
    """Largest resident memory of one of its processes, in MB."""
    finished: bool


class StepRunner:
    """Runs steps in order, and records in `steps.json` what each of them took.

    Args:
        folder: The folder of the demo.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._results = self._read()

    @property
    def results(self) -> list[StepResult]:
        """What every step took, in the order they were first run."""
        return list(self._results.values())

    def run(self, steps: Sequence[Step]) -> list[StepResult]:
        """Run every step that was not finished before with the same command.

        Raises:
            InputError: If a step refuses its input; its message has been printed.
            StoppedError: If a step was stopped; the same command continues.
            RuntimeError: If a step failed.
        """
        for number, step in enumerate(steps, start=1):
            before = self._results.get(step.name)
            if before and before.command != step.command:
                raise InputError(
                    f"out={self.folder}: holds a demo with other settings ({before.command}); choose another folder"
                )
            title = f"[{number}/{len(steps)}] {step.name}"
            if before and before.finished and step.output.exists():
                print(f"{title}: done before ({before.seconds:.0f} s)", flush=True)
                continue
            print(f"{title}\n    {step.command}", flush=True)
            if step.before is not None:
                step.before()
            self._run(step, before.seconds if before else 0.0)
        return [self._results[step.name] for step in steps]

    def _run(self, step: Step, seconds_before: float) -> None:
        start = time.monotonic()
        code, peak_mb = _run_in_process(step)
        seconds = seconds_before + time.monotonic() - start
        self._results[step.name] = StepResult(step.name, step.command, seconds, peak_mb, code == 0)
        self._write()
        if code in (EXIT_STOPPED, -signal.SIGINT, -signal.SIGTERM):
            raise StoppedError(f"in the step '{step.name}'; the same command continues from there")
        if code not in (0, EXIT_FAULT):
            raise InputError(f"the step '{step.name}' did not succeed (exit code {code}); its message is above")
        if code == EXIT_FAULT:
            raise RuntimeError(f"the step '{step.name}' failed; its traceback is above")

    def _read(self) -> dict[str, StepResult]:
        path = self.folder / _RECORD_FILE
        if not path.is_file():
            return {}
        return {row["name"]: StepResult(**row) for row in json.loads(path.read_text(encoding="utf-8"))}

    def _write(self) -> None:
        rows = [dataclasses.asdict(result) for result in self._results.values()]
        write_json(self.folder / _RECORD_FILE, rows, ascii_only=True)


def _run_in_process(step: Step) -> tuple[int, float]:
    """Run a step's command in a process of its own. Returns its exit code and peak memory in MB.

    On Linux it is forked from this process, so that torch and diffusers are imported once for all steps. A fork does not
    copy the threads that a computation has started, so this process must not have computed anything before.
    """
    forked = sys.platform == "linux"
    for module in _IMPORTED_ONCE if forked else ():
        importlib.import_module(module)
    context: Any = multiprocessing.get_context("fork" if forked else "spawn")
    peak = context.Value("q", 0)
    process = context.Process(target=_run_module, args=(step.module, step.arguments, peak))
    process.start()

    def pass_on(number: int) -> None:
        # A terminal sends Ctrl-C to the child itself; a second one would interrupt it before its state is saved.
        if number == signal.SIGTERM or not sys.stdin.isatty():
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(process.pid, number)

    with StopRequest(pass_on):
        process.join()
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return process.exitcode, peak.value * unit / 1e6


def _run_module(module: str, arguments: Sequence[str], peak: "Synchronized[int]") -> None:
    """Do what `python -m MODULE ARGUMENTS` does; store the peak memory of this process and its children in `peak`."""
    sys.argv = [module, *arguments]
    # A fork copies the handle of this process's fork server, if it has one; but that is not a child of the new process.
    forkserver._forkserver.__init__()  # type: ignore[misc]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        used = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        peak.value = max(used)
