"""`riffusion train`: fine-tune a model on a dataset; `--multirun key=a,b …` makes one run of each combination of values."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riffusion_train.cli.arguments import HELP_FLAGS, Command, FlagParser
from riffusion_train.config.compose import compose, is_text
from riffusion_train.config.train import TrainConfig
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.runtime.errors import EXIT_STOPPED, InputError, StoppedError
from riffusion_train.runtime.files import refuse_url

_MULTIRUN_HELP = """
--multirun (or -m) with key=a,b makes one run of each combination of values, one after another, each in its own process.
--launcher submitit sends them to a queue instead; --submitit KEY=VALUE sets one of its parameters, repeat it."""

MULTIRUN_FLAGS = ("-m", "--multirun")
SWEEP_FILE = "sweep.json"

_COMMAND = Command(name="train", root=TrainConfig, notes=_MULTIRUN_HELP)


def main(arguments: Sequence[str]) -> None:
    """Run the verb."""
    asks_for_help = any(argument in HELP_FLAGS for argument in arguments)
    if not asks_for_help and any(argument in MULTIRUN_FLAGS for argument in arguments):
        sweep(arguments)
        return
    parsed = _COMMAND.parse(arguments)
    if parsed is None:
        return
    config = parsed.config
    _check_folders(config)
    from riffusion_train.cli.model import quieten_libraries
    from riffusion_train.training.run import run_training

    quieten_libraries()
    if config.check:
        from riffusion_train.training.dry_run import check_training

        for line in check_training(config, arguments):
            print(line)
        return
    path = run_training(config, arguments)
    if os.environ.get("RANK", "0") == "0":
        print(f"trained: {path}")


class SweepJob:
    """One run of a sweep, as a callable that submitit can send to a queue, and again after a preemption.

    Args:
        arguments: The command line of the run, without the verb.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Train in a new process; return its exit code."""
        self._process = subprocess.Popen([sys.executable, "-m", "riffusion_train", "train", *self.arguments])
        return self._process.wait()

    def checkpoint(self) -> Any:
        """Let the run save its state, and ask submitit to queue it again; called when the job is preempted or times out."""
        import submitit

        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        return submitit.helpers.DelayedSubmission(SweepJob(self.arguments))


def sweep(arguments: Sequence[str]) -> None:
    """Run `riffusion train` with `--multirun` among its arguments.

    Raises:
        InputError: For anything that one of the runs would refuse, before the first of them starts; if a run failed; inside a
            distributed launch, whose processes belong to one run.
        StoppedError: If a run was stopped.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "--multirun cannot run inside a distributed launch; start it without the launcher, or one run at a time"
        )
    parser = FlagParser(prog="riffusion train --multirun", add_help=False)
    parser.add_argument(*MULTIRUN_FLAGS, action="store_true")
    parser.add_argument("--launcher", choices=("local", "submitit"), default="local")
    parser.add_argument("--submitit", action="append", default=[], metavar="KEY=VALUE")
    flags, rest = parser.parse_known_args(list(arguments))
    folder, jobs = plan(rest)
    for job in jobs:
        _check_folders(compose("train", TrainConfig, job))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SWEEP_FILE).write_text(json.dumps(jobs, indent=1) + "\n", encoding="utf-8")
    if flags.launcher == "submitit":
        for submitted in submit(jobs, folder, flags.submitit):
            print(f"submitted: {submitted.job_id}")
    else:
        _run_here(jobs)
    print(f"swept: {folder}")


def plan(arguments: Sequence[str]) -> tuple[Path, list[list[str]]]:
    """Return the folder of a sweep and the arguments of each run: every combination of the values that `key=a,b` lists.

    Text values, such as `dataset=`, are taken literally with their commas; so are lists in brackets.

    Raises:
        InputError: If nothing is listed.
    """
    stamp = f"runs/{time.strftime('%Y%m%d-%H%M%S')}-sweep"
    folder = Path(next((one.removeprefix("run=") for one in arguments if one.startswith("run=")), stamp))
    choices = [_choices(argument) for argument in arguments if not argument.startswith("run=")]
    combinations = list(itertools.product(*choices))
    if len(combinations) < 2:
        raise InputError("--multirun needs at least one key=a,b with several values")
    return folder, [[*chosen, f"run={folder / f'{number:03d}'}"] for number, chosen in enumerate(combinations)]


def submit(jobs: Sequence[Sequence[str]], folder: Path, options: Sequence[str]) -> list[Any]:
    """Give every run to submitit, which uses Slurm where there is one, and processes on this machine elsewhere.

    Args:
        jobs: The arguments of each run.
        folder: Where submitit keeps its scripts and logs.
        options: Its parameters as `key=value`, such as `timeout_min=600`, `gpus_per_node=1`, `slurm_partition=gpu`.

    Raises:
        InputError: If submitit is not installed, or an option is not `key=value`.
    """
    try:
        import submitit
    except ImportError:
        raise InputError("--launcher submitit is not installed; pip install submitit") from None
    wrong = [option for option in options if "=" not in option]
    if wrong:
        raise InputError(f"--submitit {wrong[0]}: give KEY=VALUE, for example --submitit gpus_per_node=1")
    executor = submitit.AutoExecutor(folder=folder / "submitit")
    values = dict(option.split("=", 1) for option in options)
    executor.update_parameters(**{key: int(value) if value.isdecimal() else value for key, value in values.items()})
    return [executor.submit(SweepJob([*_without_resume(job), "resume=auto"])) for job in jobs]


def _check_folders(config: TrainConfig) -> None:
    """Refuse folders that cannot be used, before torch is imported, which takes seconds.

    Raises:
        InputError: If the run or the dataset is a URL, or if the dataset is none that can be trained on.
    """
    if config.run is not None:
        refuse_url("run=", config.run, "give a folder, and copy it to the store when the run has ended")
    open_dataset_folder(config.dataset).require_parquet()


def _run_here(jobs: Sequence[Sequence[str]]) -> None:
    """Run one after another; a run that fails does not keep the next from starting, one that is stopped does."""
    failed = []
    for number, job in enumerate(jobs):
        print(f"run {number + 1} of {len(jobs)}: {' '.join(job)}", flush=True)
        code = SweepJob(job)()
        if code == EXIT_STOPPED or code < 0:
            raise StoppedError(f"run {number + 1} of {len(jobs)}; the same command with resume=auto continues")
        if code:
            failed.append(job[-1])
    if failed:
        raise InputError(f"{len(failed)} of {len(jobs)} runs failed, see above: {', '.join(failed)}")


def _choices(argument: str) -> list[str]:
    """Return the arguments that `key=a,b` stands for."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    key, _, value = argument.partition("=")
    if is_text(TrainConfig, key) or not ("," in value or "(" in value):
        return [argument]
    try:
        override = OverridesParser.create().parse_override(argument)
    except OverrideParseException as error:
        raise InputError(f"'{argument}' cannot be read: {str(error).splitlines()[0]}") from None
    if not override.is_discrete_sweep():
        return [argument]
    return [f"{key}={choice}" for choice in override.sweep_string_iterator()]


def _without_resume(arguments: Sequence[str]) -> list[str]:
    return [argument for argument in arguments if not argument.startswith("resume=")]
