"""`riffusion train`: fine-tune a model on a dataset."""

import os
from collections.abc import Sequence

from riffusion_train.cli.command import parse
from riffusion_train.cli.sweep import MULTIRUN_FLAGS, sweep
from riffusion_train.config.train import TrainConfig


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    if any(word in MULTIRUN_FLAGS for word in words) and not any(word in ("-h", "--help") for word in words):
        sweep(words)
        return
    config = parse("train", TrainConfig, words)
    if config is None:
        return
    from riffusion_train.cli.quiet import quieten_libraries
    from riffusion_train.training.run import run_training

    quieten_libraries()
    if config.check:
        from riffusion_train.training.dry_run import check_training

        for line in check_training(config, words):
            print(line)
        return
    path = run_training(config, words)
    if os.environ.get("RANK", "0") == "0":
        print(f"trained: {path}")
