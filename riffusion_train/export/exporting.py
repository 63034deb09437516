"""`riffusion export`: from a run to a model that others can read."""

import os
import tempfile
from pathlib import Path

from riffusion_train.config.export import ExportDtype, ExportFormat, ExportWeights, LoraLayout
from riffusion_train.config.spectrogram import write_spectrogram
from riffusion_train.export.card import write_card
from riffusion_train.export.product import check_target, is_file, write_product, written_beside
from riffusion_train.export.run_model import FINAL, RunModel, open_run_model
from riffusion_train.export.summary import metadata, summarise, write_summary
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.hub import check_repository, push


def export_run(
    run: Path,
    out: Path,
    *,
    kind: ExportFormat = ExportFormat.diffusers,
    checkpoint: str = FINAL,
    weights: ExportWeights = ExportWeights.ema,
    dtype: ExportDtype = ExportDtype.fp32,
    layout: LoraLayout = LoraLayout.diffusers,
    push_to_hub: str | None = None,
    private: bool = False,
    endpoint: str | None = None,
) -> RunModel:
    """Write the model of a run to `out`; the adapters of a LoRA run are merged unless asked for alone.

    Args:
        run: The run folder, or one of its checkpoints.
        out: The folder or file; it is written beside and renamed, so it is whole or not there.
        kind: The format.
        checkpoint: A step, `final` or `newest`.
        weights: EMA or raw.
        dtype: The kind of number.
        layout: The layout of adapters.
        push_to_hub: A repository to upload to as well.
        private: Whether it is private where it is new.
        endpoint: The hub's address.

    Returns:
        What was exported.

    Raises:
        InputError: If the run or the target cannot be used; nothing is left behind then.
    """
    check_target(out, kind, layout)
    if push_to_hub is not None:
        check_repository(push_to_hub)
    model = open_run_model(run, checkpoint, weights)
    if kind is ExportFormat.lora and model.lora is None:
        raise InputError(f"run={run}: method={model.config.method.name.value} trains no adapters; take another format")
    summary = summarise(model)
    single = is_file(kind, layout)
    with written_beside(out) as partial:
        write_product(
            partial,
            kind,
            model=None if kind is ExportFormat.lora else model.whole(),
            lora=model.lora,
            layout=layout,
            dtype=dtype,
            metadata=metadata(summary, model, kind, out.stem),
        )
        if not single:
            write_summary(partial, summary)
            write_card(partial, model, summary, kind, layout, name=push_to_hub or out.name)
    if push_to_hub is not None and not single:
        push(out, push_to_hub, private=private, endpoint=endpoint)
    elif push_to_hub is not None:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".upload-") as staging:
            codec = model.base.skeleton.spectrogram
            if codec is not None:
                write_spectrogram(Path(staging), codec)
            write_card(Path(staging), model, summary, kind, layout, name=out.name)
            os.link(out, Path(staging) / out.name)
            push(Path(staging), push_to_hub, private=private, endpoint=endpoint)
    return model
