"""`riffusion train`: fine-tune a model on a dataset, once or many times.

`riffusion train --multirun key=a,b …` makes one run of each combination, or a search by optuna; the best is named.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from riffusion_train.cli.arguments import HELP_FLAGS, Command, FlagParser, parse_general_flags
from riffusion_train.config.compose import (
    compose,
    composed_text,
    group_options,
    is_text,
    key_type,
    preset_folders,
    search_path,
)
from riffusion_train.config.train import MethodName, TrainConfig
from riffusion_train.dataset.store import open_training_data
from riffusion_train.runtime.errors import EXIT_STOPPED, InputError, StoppedError
from riffusion_train.runtime.files import refuse_url, write_json

if TYPE_CHECKING:
    import optuna

_MULTIRUN_HELP = """
--multirun (or -m) with key=a,b makes one run of each combination of values, one after another, each in its own process;
range(0,5) and glob(sd15*) stand for values too. The run with the lowest validation_loss at its end is named as the best:
--metric NAME compares another metric of metrics.jsonl, such as validation_kid of validation=judge; --maximize takes its
highest value, as validation_agreement needs.
--sweeper optuna --trials N searches instead; there a key may also be interval(1,8) or tag(log, interval(1e-6,1e-4)).
--launcher submitit sends the runs to a queue; --submitit KEY=VALUE sets one of its parameters, repeat it."""

_MULTIRUN_FLAGS = ("-m", "--multirun")
SWEEP_FLAGS = ("--multirun", "--launcher", "--submitit", "--sweeper", "--trials", "--metric", "--maximize")
_SWEEP_FILE = "sweep.json"
_RESULTS_FILE = "results.json"
STUDY_FILE = "optuna.jsonl"
_JUDGED = ("validation_kid", "validation_agreement", "validation_copies")
_SUBMITIT_DIR = "submitit"
_COMMAND = Command(name="train", root=TrainConfig, notes=_MULTIRUN_HELP)


def main(arguments: Sequence[str]) -> None:
    """Run the verb."""
    asks_for_help = any(argument in HELP_FLAGS for argument in arguments)
    if not asks_for_help and any(argument in _MULTIRUN_FLAGS for argument in arguments):
        _sweep(arguments)
        return
    parsed = _COMMAND.parse(arguments)
    if parsed is None:
        return
    config = parsed.config
    _check_folders(config)
    from riffusion_train.cli.model import quieten_libraries
    from riffusion_train.training.dry_run import check_training
    from riffusion_train.training.run import run_training

    quieten_libraries()
    if config.check:
        for line in check_training(config, arguments):
            print(line)
        return
    path = run_training(config, arguments)
    if os.environ.get("RANK", "0") == "0" and config.cache_only:
        print(f"filled: the caches in {path}; the same command without cache_only=true trains with them")
    elif os.environ.get("RANK", "0") == "0":
        print(f"trained: {path}; its model is in {path / 'final'}")
        if config.method.name is MethodName.vae:
            print(f"next: riffusion train dataset={quote(config.dataset)} model={quote(str(path / 'final'))} …")
        else:
            print(f"next: riffusion export run={quote(str(path))} out=model")


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


def _sweep(arguments: Sequence[str]) -> None:
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
    general, rest = parse_general_flags(arguments)
    flags, rest = _sweep_parser().parse_known_args(rest)
    rest = [*search_path(general.config_dir), *rest]
    ranking = Ranking(flags.metric, flags.maximize)
    if flags.sweeper == "optuna":
        if general.show:
            raise InputError("--show prints configs that are known before; leave out --sweeper optuna")
        if flags.launcher != "local":
            raise InputError("--sweeper optuna decides after each run what to try next; leave out --launcher")
        search(rest, flags.trials, ranking)
        return
    folder, jobs = plan(rest)
    if general.show:
        print("\n".join(f"# {' '.join(job)}\n{composed_text('train', TrainConfig, job)}" for job in jobs))
        return
    for job in jobs:
        _check_folders(compose("train", TrainConfig, job))
    with _recorded(folder, jobs):
        if flags.launcher == "submitit":
            for submitted in submit(jobs, folder, flags.submitit):
                print(f"submitted: {submitted.job_id}")
        else:
            _run_here(folder, jobs, ranking)
    print(f"swept: {folder}")


def _check_folders(config: TrainConfig) -> None:
    """Refuse folders that cannot be used, before torch is imported, which takes seconds.

    Raises:
        InputError: If the run is a URL, or if the dataset is none that can be trained on.
    """
    if config.run is not None:
        refuse_url("run=", config.run, "give a folder, and the store with mirror=")
    open_training_data(config).require_parquet()


def _sweep_parser() -> FlagParser:
    parser = FlagParser(prog="riffusion train --multirun", add_help=False, allow_abbrev=False)
    parser.add_argument(*_MULTIRUN_FLAGS, action="store_true")
    parser.add_argument("--launcher", choices=("local", "submitit"), default="local")
    parser.add_argument("--submitit", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--sweeper", choices=("grid", "optuna"), default="grid")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--metric", default="validation_loss")
    parser.add_argument("--maximize", action="store_true")
    return parser


def plan(arguments: Sequence[str]) -> tuple[Path, list[list[str]]]:
    """Return the folder of a sweep and the arguments of each run: every combination of the values that `key=a,b` lists.

    Text values, such as `dataset=`, are taken literally with their commas; so are lists in brackets.

    Raises:
        InputError: If nothing is listed.
    """
    folder, rest = _split_folder(arguments)
    folders = preset_folders(arguments)
    combinations = list(itertools.product(*(_choices(argument, folders) for argument in rest)))
    if len(combinations) < 2:
        raise InputError("--multirun needs at least one key=a,b with several values")
    return folder, [_job(chosen, number, folder) for number, chosen in enumerate(combinations)]


def _job(arguments: Sequence[str], number: int, folder: Path) -> list[str]:
    """Return the arguments of a run of a sweep, with a folder of its own on this machine and in a mirror."""
    own = f"{number:03d}"
    rest = [f"{one.rstrip('/')}/{own}" if one.startswith("mirror=") else one for one in arguments]
    return [*rest, f"run={folder / own}"]


def _split_folder(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """Return the folder of a sweep, `run=` or a new name from the date, and the other arguments."""
    stamp = f"runs/{time.strftime('%Y%m%d-%H%M%S')}-sweep"
    folder = next((one.removeprefix("run=") for one in arguments if one.startswith("run=")), stamp)
    refuse_url("run=", folder)
    return Path(folder).expanduser(), [argument for argument in arguments if not argument.startswith("run=")]


@contextlib.contextmanager
def _recorded(folder: Path, jobs: Sequence[Sequence[str]]) -> Iterator[None]:
    """Keep the list of runs in the sweep's folder; it goes again if an error leaves no run there."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _SWEEP_FILE, list(jobs), indent=1)
    try:
        yield
    except InputError:
        if not any(path.is_dir() for path in folder.glob("[0-9][0-9][0-9]*")):
            for name in (_SWEEP_FILE, _RESULTS_FILE, STUDY_FILE):
                (folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other files are there
                for one in (folder / _SUBMITIT_DIR, *new):
                    if one.is_dir():
                        one.rmdir()
        raise


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How the runs of a sweep are compared: by the last value of a metric in their `metrics.jsonl`."""

    metric: str
    maximize: bool

    def value(self, run: Path) -> float | None:
        """Return the last finite value in the metrics of a run; None where there is none."""
        found = None
        with contextlib.suppress(OSError):
            for line in (run / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    value = float(json.loads(line)[self.metric])
                    found = value if math.isfinite(value) else found
        return found

    def write(self, folder: Path, jobs: Sequence[Sequence[str]]) -> None:
        """Write the metric of every run to `results.json`, and name the best."""
        rows: list[dict[str, Any]] = [
            {"run": job[-1].removeprefix("run="), "arguments": list(job[:-1])} for job in jobs
        ]
        results = [{**row, self.metric: self.value(Path(str(row["run"])))} for row in rows]
        write_json(folder / _RESULTS_FILE, results, indent=1)
        measured = [row for row in results if row[self.metric] is not None]
        if not measured:
            print(f"no run has {self.metric}, so none is named the best; set validation.every_steps, or --metric loss")
            return
        best = (max if self.maximize else min)(measured, key=lambda row: row[self.metric])
        varied = [one for one in best["arguments"] if not all(one in job for job in jobs)]
        print(f"best: {best['run']} ({self.metric} {best[self.metric]:.6g}): {' '.join(varied)}")


def search(arguments: Sequence[str], num_trials: int, ranking: Ranking) -> None:
    """Let optuna choose the values of `key=a,b`, `key=range(…)` and `key=interval(…)` for one run after the other.

    The study is kept in the sweep's folder; the same command with `resume=auto` goes on with it.

    Raises:
        InputError: If optuna is not installed, nothing is to be chosen, a run would be refused or has no metric.
        StoppedError: If a run was stopped.
    """
    try:
        import optuna
    except ImportError:
        raise InputError("--sweeper optuna is not installed; pip install 'riffusion-train[optuna]'") from None
    if num_trials < 1:
        raise InputError(f"--trials {num_trials}: must be at least 1")
    folder, rest = _split_folder(arguments)
    folders = preset_folders(arguments)
    space = {argument.partition("=")[0]: _distribution(argument, folders) for argument in rest}
    space = {key: distribution for key, distribution in space.items() if distribution is not None}
    if not space:
        raise InputError("--sweeper optuna needs at least one key=a,b or key=interval(a,b)")
    fixed = [argument for argument in rest if argument.partition("=")[0] not in space]
    config = compose("train", TrainConfig, fixed)
    if ranking.metric.startswith("validation_") and not config.validation.every_steps:
        raise InputError(f"--metric {ranking.metric} is never measured; set validation.every_steps, or --metric loss")
    if ranking.metric in _JUDGED and not (
        config.validation.num_clips or any(key.startswith("validation") for key in space)
    ):
        raise InputError(f"--metric {ranking.metric} is never measured; take validation=judge, or another --metric")
    if (folder / STUDY_FILE).exists() and "resume=auto" not in fixed:
        raise InputError(f"{folder}: holds a sweep; resume=auto goes on with it, another run= begins a new one")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    jobs: list[list[str]] = []
    with _recorded(folder, [[f"run={folder / '000'}"]]):
        study = _open_study(folder, ranking.maximize)
        trials = itertools.chain(_unfinished(study), iter(lambda: study.ask(space), None))
        while sum(trial.state.is_finished() for trial in study.trials) < num_trials:
            _run_trial(next(trials), study, folder, fixed, ranking)
        for trial in study.trials:
            jobs.append(_arguments_of(trial.params, trial.number, folder, fixed))
        write_json(folder / _SWEEP_FILE, jobs, indent=1)
        ranking.write(folder, jobs)
        if all(trial.value is None for trial in study.trials):
            raise InputError(f"none of {len(jobs)} runs has {ranking.metric} at its end, see above")
    print(f"swept: {folder}")


def _open_study(folder: Path, maximize: bool) -> "optuna.Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return optuna.create_study(
        study_name="sweep",
        storage=JournalStorage(JournalFileBackend(str(folder / STUDY_FILE))),
        sampler=optuna.samplers.TPESampler(seed=0),
        direction="maximize" if maximize else "minimize",
        load_if_exists=True,
    )


def _unfinished(study: "optuna.Study") -> Iterator["optuna.Trial"]:
    """Yield the trials that an earlier, stopped command has begun."""
    import optuna

    for trial in study.trials:
        if not trial.state.is_finished():
            yield optuna.Trial(study, trial._trial_id)


def _run_trial(
    trial: "optuna.Trial", study: "optuna.Study", folder: Path, fixed: Sequence[str], ranking: Ranking
) -> None:
    import optuna

    job = _arguments_of(trial.params, trial.number, folder, fixed)
    print(f"run {trial.number + 1}: {' '.join(job)}", flush=True)
    code = SweepJob(job)()
    if code == EXIT_STOPPED or code < 0:
        raise StoppedError(f"run {trial.number + 1}; the same command with resume=auto continues")
    value = None if code else ranking.value(Path(job[-1].removeprefix("run=")))
    study.tell(trial, value, state=optuna.trial.TrialState.FAIL if value is None else None)


def _arguments_of(params: Mapping[str, Any], number: int, folder: Path, fixed: Sequence[str]) -> list[str]:
    return _job([*fixed, *(f"{key}={value}" for key, value in params.items())], number, folder)


def _distribution(argument: str, folders: Sequence[Path]) -> Any:
    """Return what optuna chooses a key from; None for a key with one value."""
    import optuna

    override = _parse_sweep(argument)
    if override is None or not override.is_sweep_override():
        return None
    if not override.is_interval_sweep():
        values = [choice.partition("=")[2] for choice in _choices(argument, folders)]
        return optuna.distributions.CategoricalDistribution(values)
    interval = override.value()
    try:
        log = "log" in interval.tags
        if key_type(TrainConfig, override.key_or_group) is int:
            return optuna.distributions.IntDistribution(int(interval.start), int(interval.end), log=log)
        return optuna.distributions.FloatDistribution(float(interval.start), float(interval.end), log=log)
    except ValueError as error:
        raise InputError(f"'{argument}': {str(error).splitlines()[0]}") from None


def submit(jobs: Sequence[Sequence[str]], folder: Path, options: Sequence[str]) -> list[Any]:
    """Give every run to submitit, which uses Slurm where there is one, and processes on this machine elsewhere.

    Args:
        jobs: The arguments of each run.
        folder: Where submitit keeps its scripts and logs.
        options: Its parameters as `key=value`, such as `timeout_min=600`, `gpus_per_node=1`, `slurm_partition=gpu`.

    Raises:
        InputError: If submitit is not installed, or does not take an option.
    """
    try:
        import submitit
    except ImportError:
        raise InputError("--launcher submitit is not installed; pip install submitit") from None
    wrong = [option for option in options if "=" not in option]
    if wrong:
        raise InputError(f"--submitit {wrong[0]}: give KEY=VALUE, for example --submitit gpus_per_node=1")
    values: dict[str, Any] = dict(option.split("=", 1) for option in options)
    cluster = values.pop("cluster", None)
    try:
        executor = submitit.AutoExecutor(folder=folder / _SUBMITIT_DIR, cluster=cluster)
        executor.update_parameters(**{key: int(value) if value.isdecimal() else value for key, value in values.items()})
    except (ValueError, NameError, TypeError, AssertionError, RuntimeError) as error:
        raise InputError(f"--submitit {' '.join(options)}: {' '.join(str(error).split())}") from None
    return [executor.submit(SweepJob([*_without_resume(job), "resume=auto"])) for job in jobs]


def _run_here(folder: Path, jobs: Sequence[Sequence[str]], ranking: Ranking) -> None:
    """Run one after another; a run that fails does not keep the next from starting, one that is stopped does."""
    failed = []
    for number, job in enumerate(jobs):
        print(f"run {number + 1} of {len(jobs)}: {' '.join(job)}", flush=True)
        code = SweepJob(job)()
        if code == EXIT_STOPPED or code < 0:
            raise StoppedError(f"run {number + 1} of {len(jobs)}; the same command with resume=auto continues")
        if code:
            failed.append(job[-1])
    if len(failed) < len(jobs):
        ranking.write(folder, jobs)
    if failed:
        raise InputError(f"{len(failed)} of {len(jobs)} runs failed, see above: {', '.join(failed)}")


def _choices(argument: str, folders: Sequence[Path]) -> list[str]:
    """Return the arguments that `key=a,b`, `key=range(0,3)` or `key=glob(sd15*)` stands for."""
    override = _parse_sweep(argument)
    if override is None or not override.is_sweep_override():
        return [argument]
    key = argument.partition("=")[0].lstrip("+")
    if override.is_interval_sweep():
        raise InputError(f"'{argument}': an interval has no values to try one by one; add --sweeper optuna")
    if override.is_discrete_sweep() and not override.value_type.name.startswith("GLOB"):
        return [f"{key}={choice}" for choice in override.sweep_string_iterator()]
    options = group_options(key, folders)
    names = override.value().filter(options)
    if not names:
        raise InputError(f"'{argument}' fits no preset; choose from: {', '.join(options) or f'none, {key}= has none'}")
    return [f"{key}={name}" for name in names]


def _parse_sweep(argument: str) -> Any:
    """Return Hydra's reading of an argument that may stand for several; None for one that cannot.

    Raises:
        InputError: If it cannot be read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    key, _, value = argument.partition("=")
    if is_text(TrainConfig, key.lstrip("+")) or not ("," in value or "(" in value):
        return None
    try:
        return OverridesParser.create().parse_override(argument)
    except OverrideParseException as error:
        raise InputError(f"'{argument}' cannot be read: {str(error).splitlines()[0]}") from None


def _without_resume(arguments: Sequence[str]) -> list[str]:
    return [argument for argument in arguments if not argument.startswith("resume=")]
