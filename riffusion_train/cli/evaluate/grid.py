"""`riffusion evaluate grid MODEL|RUN … --prompt TEXT … out=DIR`: sample a grid into an audition site."""

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from riffusion_train.cli.command import FlagParser, help_text
from riffusion_train.config.compose import compose, config_keys
from riffusion_train.config.sample import GridConfig
from riffusion_train.runtime.errors import InputError

_FLAGS = "MODEL|RUN … --prompt TEXT … | --prompts FILE [--negative TEXT] "
_MOST_SEEDS = 1000


def run(words: Sequence[str]) -> None:
    """Run `riffusion evaluate grid WORDS`.

    Raises:
        InputError: If the words, the prompts or a model cannot be used.
    """
    if any(word in ("-h", "--help") for word in words):
        print(help_text("evaluate grid", GridConfig, _FLAGS))
        return
    flags, rest = _parser().parse_known_args(list(words))
    unknown = [word for word in rest if word.startswith("--")]
    if unknown:
        raise InputError(f"unknown flag {unknown[0]}; the flags are {_FLAGS.strip()}")
    keys = tuple(f"{key}=" for key in config_keys(GridConfig))
    sources = [word for word in rest if not word.startswith(keys) and (Path(word).exists() or "=" not in word)]
    config = compose("grid", GridConfig, [word for word in rest if word not in sources])
    if not sources:
        raise InputError("no model: riffusion evaluate grid MODEL|RUN … --prompt TEXT … out=DIR")
    _make(config, sources, read_prompts(flags.prompt, flags.prompts), flags.negative, words)


def read_prompts(texts: Sequence[str], file: str | None) -> list[str]:
    """Return the prompts of the command line and of a file, one a line.

    Raises:
        InputError: If there are none, or the file cannot be read.
    """
    prompts = list(texts)
    if file is not None:
        path = Path(file).expanduser()
        if not path.is_file():
            raise InputError(f"--prompts {path}: no such file")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise InputError(f"--prompts {path}: is no UTF-8 text; save it as UTF-8, one prompt a line") from None
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise InputError(f"--prompts {path}: holds no prompt; write one a line")
        prompts += found
    if not prompts:
        raise InputError("no prompt: give --prompt TEXT, or --prompts FILE with one prompt a line")
    return list(dict.fromkeys(prompts))


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `0,3,7-9`.

    Raises:
        InputError: If the text is something else.
    """
    seeds: list[int] = []
    for part in text.strip("[]() ").split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if found is None:
            raise InputError(f"seeds={text}: '{part.strip()}' is no seed; write numbers from 0 with commas, or 0-3")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last - first >= _MOST_SEEDS or last >= 2**63:
            raise InputError(f"seeds={text}: '{part.strip()}' is no range of seeds; write the smaller first, as in 0-3")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def _parser() -> argparse.ArgumentParser:
    parser = FlagParser(prog="riffusion evaluate grid", add_help=False, allow_abbrev=False)
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT")
    parser.add_argument("--prompts", metavar="FILE")
    parser.add_argument("--negative", default="", metavar="TEXT")
    return parser


def _make(
    config: GridConfig, sources: Sequence[str], prompts: Sequence[str], negative: str, words: Sequence[str]
) -> None:
    seeds = parse_seeds(config.seeds)
    import torch

    from riffusion_train.cli.quiet import quieten_libraries
    from riffusion_train.evaluation.grid import Grid, find_models
    from riffusion_train.runtime.signals import StopRequest

    quieten_libraries()
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    grid = Grid(
        Path(config.out).expanduser(),
        find_models(sources, config.checkpoints, config.weights),
        prompts,
        seeds,
        negative=negative,
        settings=config,
        audio_format=config.format.value,
        title=config.title,
        command=shlex.join(["riffusion", "evaluate", "grid", *words]),
    )
    with StopRequest() as stop:
        made = grid.make(batch_size=config.batch_size, asked_to_stop=lambda: stop.asked)
    print(f"made: {made} clips, {len(grid) - made} stood already")
    print(f"done: open {grid.page.resolve()} in a browser")
