"""`riffusion evaluate`: `grid` samples a page to listen and compare, `score` measures clips, `run` the checkpoints of a run."""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riffusion_train.cli.arguments import HELP_FLAGS, NO_PROMPT, Arguments, Command, Flag, read_prompts
from riffusion_train.config.denoising import check_denoising
from riffusion_train.config.sample import GridConfig, RunConfig, ScoreConfig
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.hub import check_source

ACTIONS = {
    "grid": "prompts × checkpoints × seeds as a page to listen and compare",
    "score": "how near clips are to real music, whether they follow their captions, copies, sound",
    "run": "the same for every checkpoint of a run, over its steps; names the best",
}

_GRID = Command(
    name="evaluate grid",
    root=GridConfig,
    usage="MODEL|RUN … --prompt TEXT … | --prompts FILE [--negative TEXT]",
    takes_positionals=True,
    local_keys=("out", "real"),
    flags=(
        Flag("--prompt", meaning="what to make; repeat it for several prompts", repeats=True),
        Flag("--prompts", "FILE", "one prompt a line, UTF-8"),
        Flag("--negative", meaning="what to lead away from", default=""),
    ),
)
_SCORE = Command(
    name="evaluate score",
    root=ScoreConfig,
    usage="CLIPS|MODEL|RUN real=DATASET|FOLDER out=DIR",
    takes_positionals=True,
    local_keys=("out", "real", "audio"),
    notes=(
        "\nCLIPS is a folder of sounds: what sample or evaluate grid wrote, or any others, with captions beside them (song.txt,"
        "\ncaptions.csv or metadata.jsonl). From a model or a run, num_clips= clips are sampled first, from held-out captions."
    ),
)
_RUN = Command(
    name="evaluate run",
    root=RunConfig,
    usage="RUN [real=DATASET] [out=DIR]",
    takes_positionals=True,
    local_keys=("out", "real"),
    notes=(
        "\nEvery checkpoint samples the same clips from held-out captions. Scores are kept in RUN/scores, so that none is"
        "\nscored twice; the best one is what checkpoint=judged means from then on."
    ),
)
_MAX_SEEDS = 1000


def main(arguments: Sequence[str]) -> None:
    """Run the verb.

    Raises:
        InputError: If the arguments, the prompts or a model cannot be used.
    """
    if arguments and arguments[0] in HELP_FLAGS:
        rows = "\n".join(f"  {action:<8} {text}" for action, text in ACTIONS.items())
        print(f"usage: riffusion evaluate ACTION …\n\n{rows}\n\nriffusion evaluate ACTION --help lists its keys.")
        return
    if not arguments or arguments[0] not in ACTIONS:
        problem = f"unknown action '{arguments[0]}'" if arguments else "no action"
        raise InputError(f"{problem}; choose from: {', '.join(ACTIONS)}; see riffusion evaluate --help")
    command = shlex.join(["riffusion", "evaluate", *arguments])
    if arguments[0] == "grid":
        grid = _GRID.parse(arguments[1:])
        if grid is not None:
            _make_grid(grid, command)
    elif arguments[0] == "run":
        run = _RUN.parse(arguments[1:])
        if run is not None:
            _score_run(run, command)
    else:
        score = _SCORE.parse(arguments[1:])
        if score is not None:
            _score(score, command)


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `0,3,7-9`.

    Raises:
        InputError: If the text is something else.
    """
    seeds: list[int] = []
    for part in text.strip("[]() ").split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise InputError(f"seeds={text}: '{part.strip()}' is no seed; write numbers from 0 with commas, or 0-3")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= _MAX_SEEDS or last >= 2**63:
            raise InputError(f"seeds={text}: '{part.strip()}' is no range of seeds; write the smaller first, as in 0-3")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def _make_grid(parsed: Arguments[GridConfig], command: str) -> None:
    config = parsed.config
    if not parsed.positionals:
        raise InputError("no model: riffusion evaluate grid MODEL|RUN … --prompt TEXT … out=DIR")
    prompts = list(dict.fromkeys(read_prompts(parsed.flags.prompt, parsed.flags.prompts)))
    if not prompts:
        raise InputError(NO_PROMPT)
    seeds = parse_seeds(config.seeds)
    check_denoising(config)
    for model in parsed.positionals:
        check_source(model)
    from riffusion_train.evaluation.grid import Grid, find_models
    from riffusion_train.runtime.progress import StopRequest

    _set_up(config.num_threads)
    scoring = None
    if config.real is not None:
        from riffusion_train.evaluation.grid_scores import GridScoring

        scoring = GridScoring(config.real, num_real=config.num_real, num_slices=config.num_slices, device=config.device)
    grid = Grid(
        Path(config.out).expanduser(),
        find_models(parsed.positionals, config.checkpoints, config.weights),
        prompts,
        seeds,
        negative=parsed.flags.negative,
        settings=config,
        audio_format=config.format.value,
        title=config.title,
        command=command,
    )
    with StopRequest() as stop:
        num_made = grid.make(batch_size=config.batch_size, asked_to_stop=lambda: stop.asked)
        print(f"made: {num_made} clips, {len(grid) - num_made} already there")
        if scoring is not None:
            num_scored = scoring.score(grid, lambda: stop.asked)
            print(f"scored: {num_scored} clips, {len(grid) - num_scored} already scored")
    print(f"done: open {grid.page.resolve()} in a browser")


def _score(parsed: Arguments[ScoreConfig], command: str) -> None:
    config = parsed.config
    source = _only_source(parsed, _SCORE, "one folder of clips or one model")
    from riffusion_train.evaluation.score import Scoring
    from riffusion_train.runtime.progress import StopRequest

    _set_up(config.num_threads)
    with StopRequest() as stop:
        evaluation = Scoring(source, config, command, lambda: stop.asked).run()
    for warning in evaluation.warnings:
        print(f"note: {warning}", file=sys.stderr)
    print(evaluation.table())
    print(f"done: open {evaluation.page.resolve()} in a browser; the same as data is in {evaluation.scores_file.name}")


def _score_run(parsed: Arguments[RunConfig], command: str) -> None:
    config = parsed.config
    source = _only_source(parsed, _RUN, "one run")
    from riffusion_train.evaluation.run import RunScoring
    from riffusion_train.runtime.progress import StopRequest

    _set_up(config.num_threads)
    with StopRequest() as stop:
        evaluation = RunScoring(source, config, command, lambda: stop.asked).run()
    print(evaluation.table())
    print(f"best: {evaluation.best.reason}")
    print(f"scored: {evaluation.num_scored} checkpoints, {len(evaluation.checkpoints) - evaluation.num_scored} before")
    print(f"done: open {evaluation.page.resolve()} in a browser; checkpoint=judged is {evaluation.best.scores.name}")


def _only_source(parsed: Arguments[Any], command: Command[Any], expected: str) -> str:
    """Return the one argument that stands without a key."""
    if len(parsed.positionals) != 1:
        given = f"{len(parsed.positionals)} are given" if parsed.positionals else "none is given"
        raise InputError(f"{expected}, and {given}: riffusion {command.name} {command.usage}")
    return parsed.positionals[0]


def _set_up(num_threads: int | None) -> None:
    """Import torch, quietly, and give it its threads."""
    import torch

    from riffusion_train.cli.model import quieten_libraries

    quieten_libraries()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
