"""`riffusion import`: turn a model or a LoRA of any format into any format."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from riffusion_train.cli.command import help_text
from riffusion_train.config.compose import compose
from riffusion_train.config.export import ImportConfig
from riffusion_train.runtime.errors import InputError


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    if any(word in ("-h", "--help") for word in words):
        print(help_text("import", ImportConfig, "MODEL|LORA "))
        return
    keys = tuple(f"{field.name}=" for field in dataclasses.fields(ImportConfig))
    sources = [word for word in words if not word.startswith(keys) and (Path(word).exists() or "=" not in word)]
    if len(sources) != 1:
        raise InputError("give one folder, file or hub id: riffusion import MODEL out=PATH")
    config = compose("import", ImportConfig, [word for word in words if word not in sources])
    from riffusion_train.cli.quiet import quieten_libraries
    from riffusion_train.export.write import import_model

    quieten_libraries()
    what = import_model(
        sources[0],
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
    print(f"imported: {sources[0]} ({what}) to {config.out}")
