"""`riffusion export` and `riffusion import`: write the model of a run, or any model, in a format that others read."""

from collections.abc import Sequence
from pathlib import Path

from riffusion_train.cli.arguments import Command
from riffusion_train.config.export import ExportConfig, ImportConfig
from riffusion_train.runtime.errors import InputError

_EXPORT = Command(name="export", root=ExportConfig, local_keys=("out", "run"))
_IMPORT = Command(
    name="import", root=ImportConfig, usage="MODEL|LORA", takes_positionals=True, local_keys=("out", "base", "codec")
)


def main(arguments: Sequence[str]) -> None:
    """Run `riffusion export`."""
    parsed = _EXPORT.parse(arguments)
    if parsed is None:
        return
    from riffusion_train.cli.model import quieten_libraries
    from riffusion_train.export.write import export_run

    quieten_libraries()
    config = parsed.config
    model = export_run(
        Path(config.run).expanduser(),
        Path(config.out).expanduser(),
        kind=config.format,
        checkpoint=config.checkpoint,
        weights=config.weights,
        dtype=config.dtype,
        layout=config.layout,
        push_to_hub=config.push_to_hub,
        private=config.private,
    )
    note = "" if model.weights is config.weights else "; the run keeps no moving average"
    print(f"exported: {config.out} (step {model.step}, {model.weights.value} weights{note})")
    if config.push_to_hub:
        print(f"pushed: {config.push_to_hub}")


def main_import(arguments: Sequence[str]) -> None:
    """Run `riffusion import`."""
    parsed = _IMPORT.parse(arguments)
    if parsed is None:
        return
    if len(parsed.positionals) != 1:
        raise InputError("give one folder, file or hub id: riffusion import MODEL out=PATH")
    from riffusion_train.cli.model import quieten_libraries
    from riffusion_train.export.write import import_model

    quieten_libraries()
    source, config = parsed.positionals[0], parsed.config
    kind = import_model(
        source,
        Path(config.out).expanduser(),
        kind=config.format,
        dtype=config.dtype,
        base=config.base,
        revision=config.revision,
        lora_scale=config.lora_scale,
        layout=config.layout,
        codec=config.codec,
        allow_pickle=config.allow_pickle,
    )
    print(f"imported: {source} ({kind}) to {config.out}")
