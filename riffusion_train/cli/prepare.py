"""`riffusion prepare audio=DIR out=DIR`: slice captioned audio into a dataset of spectrogram images."""

import shlex
from collections.abc import Sequence

from riffusion_train.cli.command import parse
from riffusion_train.config.prepare import PrepareConfig


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    config = parse("prepare", PrepareConfig, words)
    if config is None:
        return
    from data_prep.pipeline import run

    run(config, command=shlex.join(["riffusion", "prepare", *words]))
