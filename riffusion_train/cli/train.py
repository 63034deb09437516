"""`riffusion train`: fine-tune a model on a dataset."""

import os
from collections.abc import Sequence
from shlex import quote

from riffusion_train.cli.arguments import HELP_FLAGS, Command
from riffusion_train.cli.sweep import MULTIRUN_FLAGS, MULTIRUN_HELP, check_folders, sweep
from riffusion_train.config.train import MethodName, TrainConfig

_COMMAND = Command(name="train", root=TrainConfig, notes=MULTIRUN_HELP)


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
    check_folders(config)
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
        print(f"trained: {path}; its model is in {path / 'final'}")
        if config.method.name is MethodName.vae:
            print(f"next: riffusion train dataset={quote(config.dataset)} model={quote(str(path / 'final'))} …")
        else:
            print(f"next: riffusion export run={quote(str(path))} out=model")
