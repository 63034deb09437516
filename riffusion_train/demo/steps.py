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
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from riffusion_train.config.demo import DemoConfig
from riffusion_train.runtime.errors import EXIT_FAULT, EXIT_STOPPED, InputError, StoppedError
from riffusion_train.runtime.files import write_json
from riffusion_train.runtime.provenance import usable_cores
from riffusion_train.runtime.signals import StopRequest

_RECORD_FILE = "steps.json"
_IMPORTED_ONCE = (
    "riffusion_train.evaluation.score",
    "riffusion_train.export.write",
    "riffusion_train.sampling.sampler",
    "riffusion_train.training.run",
)

NUM_CLIPS = 1800
NUM_SAMPLES = 96
RECOMMENDED = {"guidance_scale": 2, "scheduler": "euler", "num_inference_steps": 8}
"""How the demo's model is best sampled; docs/sampling.md has the measurement."""
VALIDATION_RATIO = 0.18
NUM_REAL = 128
"""Held-out slices that the clips are compared with: enough for KID, and heard in half a minute."""

_PROGRAM = "riffusion_train"
_VAE_STEPS, _UNET_STEPS = 500, 2100  # of conf/experiment/demo_vae.yaml and demo.yaml, at scale 1
_MIN_CLIPS, _MIN_STEPS, _MIN_SAMPLES = 24, 4, 4


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
        self.samples = path / "samples"
        self.scores = path / "scores"
        self.scores_file = self.scores / "scores.json"


def plan_steps(config: DemoConfig, folder: DemoFolder, write_prompts: Callable[[], None]) -> list[Step]:
    """Return the commands of the demo, in order.

    Args:
        config: The options of the demo.
        folder: Its paths.
        write_prompts: Writes `folder.prompts`, once the dataset exists.
    """
    seed, threads = f"seed={config.seed}", f"num_threads={config.num_threads or usable_cores()}"
    vae_steps = _scaled(_VAE_STEPS, config.scale, _MIN_STEPS)
    unet_steps = _scaled(_UNET_STEPS, config.scale, _MIN_STEPS)
    prepare = [f"audio={folder.audio}", f"out={folder.dataset}", "spectrogram=tiny"]
    prepare += [f"validation_ratio={VALIDATION_RATIO}", seed]
    train_vae = ["experiment=demo_vae", f"dataset={folder.dataset}", f"run={folder.vae_run}"]
    train_vae += [f"max_train_steps={vae_steps}", "resume=auto", seed, threads]
    train = ["experiment=demo", f"model={folder.vae_run / 'final'}", f"dataset={folder.dataset}", f"run={folder.run}"]
    train += [f"max_train_steps={unet_steps}", "resume=auto", seed, threads]
    sample = [str(folder.model), "--prompts", str(folder.prompts), f"out={folder.samples}"]
    sample += ["batch_size=16", "unet_batch_size=16", "vary_seed=true", seed, threads]
    # Copies are flagged by their images: hearing all training slices as well would take minutes.
    score = [str(folder.samples), f"real={folder.dataset}", f"out={folder.scores}", f"num_real={NUM_REAL}"]
    score += ["hear_slices=false", seed, threads]
    export = [f"run={folder.run}", f"out={folder.model}"]
    export += [f"recommended.{name}={value}" for name, value in RECOMMENDED.items()]
    return [
        *([_corpus_step(config, folder)] if config.audio_dir is None else []),
        _step("prepare the dataset", "prepare", prepare, folder.dataset / "stats.json"),
        _step("train the VAE", "train", train_vae, folder.vae_run / "final"),
        _step("train the UNet and the text encoder", "train", train, folder.run / "final"),
        _step("export the model", "export", export, folder.model),
        _step("sample prompts and invert them to sound", "sample", sample, folder.samples, before=write_prompts),
        _step(
            "compare the clips with real music and search for copies", "evaluate", ["score", *score], folder.scores_file
        ),
    ]


def num_samples(config: DemoConfig) -> int:
    """Return how many clips are sampled."""
    return min(NUM_SAMPLES, _scaled(NUM_SAMPLES, config.scale, _MIN_SAMPLES))


def _step(
    name: str, verb: str, arguments: Sequence[str], output: Path, before: Callable[[], None] | None = None
) -> Step:
    return Step(name, _PROGRAM, (verb, *arguments), output, before)


def _corpus_step(config: DemoConfig, folder: DemoFolder) -> Step:
    soundfont = [] if config.soundfont is None else [f"soundfont={config.soundfont}"]
    clips = _scaled(NUM_CLIPS, config.scale, _MIN_CLIPS)
    return Step(
        "compose and render the corpus",
        "data_prep.corpus",
        (f"out={folder.audio}", f"clips={clips}", f"seed={config.seed}", *soundfont),
        folder.audio / "metadata.jsonl",
    )


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
