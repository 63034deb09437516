"""`riffusion export`: write the model of a run as a diffusers folder."""

from collections.abc import Sequence
from pathlib import Path

from riffusion_train.cli.command import parse
from riffusion_train.config.export import ExportConfig


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    config = parse("export", ExportConfig, words)
    if config is None:
        return
    from riffusion_train.cli.quiet import quieten_libraries
    from riffusion_train.export.folder import export_diffusers

    quieten_libraries()
    export_diffusers(Path(config.run).expanduser(), Path(config.out).expanduser())
    print(f"exported: {config.out}")
