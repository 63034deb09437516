"""`riffusion prepare audio=DIR out=DIR`: slice captioned audio into a dataset of spectrogram images.

`merge` joins the parts of an array job, `page` writes the page of a dataset anew, and `check` compares a dataset with what
was written.
"""

from collections.abc import Sequence
from shlex import quote

from riffusion_train.cli.arguments import HELP_FLAGS, Command
from riffusion_train.config.prepare import MergeConfig, PageConfig, PrepareConfig, Writer
from riffusion_train.runtime.errors import InputError

_NOTES = """
riffusion prepare merge out=DIR makes the dataset of all parts that part= has made.
riffusion prepare page out=DATASET writes the page of a finished dataset anew.
riffusion prepare check DATASET compares every shard of a dataset with what was written, and lists what is damaged."""
_CHECK_USAGE = """usage: riffusion prepare check DATASET

Compares every shard of a dataset folder with the hash that was taken when it was written, and lists what is damaged: the
shard, the row, the track and where in it."""
_PREPARE = Command(name="prepare", root=PrepareConfig, notes=_NOTES)
_MERGE = Command(name="prepare merge", root=MergeConfig, usage="[PART …]", takes_positionals=True, local_keys=("out",))
_PAGE = Command(name="prepare page", root=PageConfig, local_keys=("out",))


def main(arguments: Sequence[str]) -> None:
    """Run `riffusion prepare`, or its `merge`, `page` or `check`."""
    action = {"merge": _merge, "page": _page, "check": _check}.get(arguments[0]) if arguments else None
    if action is not None:
        action(arguments[1:])
        return
    parsed = _PREPARE.parse(arguments)
    if parsed is None:
        return
    from data_prep.pipeline import run

    config = parsed.config
    if run(config, arguments) and config.writer is Writer.parquet:
        print(f"next: riffusion train dataset={quote(config.out)} …, or check=true with it to see what it needs")


def _merge(arguments: Sequence[str]) -> None:
    asks_for_help = any(argument in HELP_FLAGS for argument in arguments)
    if not asks_for_help and not any(argument.startswith("out=") for argument in arguments):
        raise InputError("name the dataset folder: riffusion prepare merge [PART …] out=DIR")
    parsed = _MERGE.parse(arguments)
    if parsed is None:
        return
    from data_prep.engine.run_tracks import run_merge

    run_merge(parsed.config, parsed.positionals)


def _page(arguments: Sequence[str]) -> None:
    asks_for_help = any(argument in HELP_FLAGS for argument in arguments)
    if not asks_for_help and not any(argument.startswith("out=") for argument in arguments):
        raise InputError("name the dataset folder: riffusion prepare page out=DATASET")
    parsed = _PAGE.parse(arguments)
    if parsed is None:
        return
    from data_prep.pipeline import make_page

    make_page(parsed.config)


def _check(arguments: Sequence[str]) -> None:
    if any(argument in HELP_FLAGS for argument in arguments):
        print(_CHECK_USAGE)
        return
    if len(arguments) != 1:
        raise InputError("name one dataset folder: riffusion prepare check DATASET")
    from data_prep.writers import check_dataset

    print(check_dataset(arguments[0].removeprefix("out=")))
