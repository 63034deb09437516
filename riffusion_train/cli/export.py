"""`riffusion export` and `riffusion import`: write the model of a run, or any model, in a format that others read."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from riffusion_train.cli.arguments import Command
from riffusion_train.config.denoising import recommended_data
from riffusion_train.config.export import ExportConfig, ExportFormat, ImportConfig
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.hub import check_source

_EXPORT = Command(name="export", root=ExportConfig, local_keys=("out", "run", "scores", "notes", "prompts"))
_IMPORT = Command(
    name="import", root=ImportConfig, usage="MODEL|LORA", takes_positionals=True, local_keys=("out", "base", "codec")
)


def main(arguments: Sequence[str]) -> None:
    """Run `riffusion export`."""
    parsed = _EXPORT.parse(arguments)
    if parsed is None:
        return
    if not Path(parsed.config.run).expanduser().exists():
        raise InputError(f"{parsed.config.run}: not a run folder (there is nothing); give the folder that train wrote")
    recommended_data(parsed.config.recommended)
    from riffusion_train.cli.model import quieten_libraries
    from riffusion_train.export.write import export_run

    quieten_libraries()
    config = parsed.config
    model = export_run(
        Path(config.run).expanduser(),
        Path(config.out).expanduser(),
        base=config.base,
        kind=config.format,
        checkpoint=config.checkpoint,
        weights=config.weights,
        dtype=config.dtype,
        layout=config.layout,
        author=config.author,
        licence=config.licence,
        notes=None if config.notes is None else Path(config.notes).expanduser(),
        prompts=None if config.prompts is None else Path(config.prompts).expanduser(),
        scores=None if config.scores is None else Path(config.scores).expanduser(),
        push_to_hub=config.push_to_hub,
        private=config.private,
        recommended=config.recommended,
    )
    note = "" if model.weights is config.weights else "; the run keeps no moving average"
    print(f"exported: {config.out} (step {model.step}, {model.weights.value} weights{note})")
    print(_next_step(config.out, is_lora=config.format is ExportFormat.lora))
    if config.push_to_hub:
        print(f"pushed: {config.push_to_hub}")


def main_import(arguments: Sequence[str]) -> None:
    """Run `riffusion import`."""
    parsed = _IMPORT.parse(arguments)
    if parsed is None:
        return
    if len(parsed.positionals) != 1:
        raise InputError("give one folder, file or hub id: riffusion import MODEL out=PATH")
    check_source(parsed.positionals[0])
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
    print(_next_step(config.out, is_lora=config.format is ExportFormat.lora))


def _next_step(out: str, *, is_lora: bool) -> str:
    model = f"BASE --lora {quote(out)}" if is_lora else quote(out)
    return f"next: riffusion sample {model} --prompt TEXT out=clips"
