"""`riffusion train`: fine-tune a model on a dataset."""

import os
from collections.abc import Sequence
from shlex import quote

from riffusion_train.cli.arguments import HELP_FLAGS, Command
from riffusion_train.cli.sweep import MULTIRUN_FLAGS, MULTIRUN_HELP, sweep
from riffusion_train.config.train import MethodName, TrainConfig
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.runtime.files import refuse_url

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
        print(f"trained: {path}; its model is in {path / 'final'}")
        if config.method.name is MethodName.vae:
            print(f"next: riffusion train dataset={quote(config.dataset)} model={quote(str(path / 'final'))} …")
        else:
            print(f"next: riffusion export run={quote(str(path))} out=model")


def _check_folders(config: TrainConfig) -> None:
    """Refuse folders that cannot be used, before torch is imported, which takes seconds.

    Raises:
        InputError: If the run or the dataset is a URL, or if the dataset is none that can be trained on.
    """
    if config.run is not None:
        refuse_url("run=", config.run, "give a folder, and copy it to the store when the run has ended")
    open_dataset_folder(config.dataset).require_parquet()
