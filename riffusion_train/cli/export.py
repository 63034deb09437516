"""`riffusion export`: write the model of a run in a format that others read."""

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
    from riffusion_train.export.write import export_run

    quieten_libraries()
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
    kept = "" if model.weights is config.weights else "; the run keeps no moving average"
    print(f"exported: {config.out} (step {model.step}, {model.weights.value} weights{kept})")
    if config.push_to_hub:
        print(f"pushed: {config.push_to_hub}")
