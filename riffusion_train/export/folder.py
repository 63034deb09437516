"""Export a run as a diffusers folder that stands on its own."""

import dataclasses
import json
import shutil
from pathlib import Path

from riffusion_train.config.errors import InputError
from riffusion_train.config.spectrogram import load_spectrogram
from riffusion_train.config.train import MethodName
from riffusion_train.export.card import write_card
from riffusion_train.model.adapt import load_lora, merge_lora
from riffusion_train.model.build import make_components
from riffusion_train.model.components import write_components
from riffusion_train.training.run_folder import RunFolder


def export_diffusers(run_path: Path, out: Path) -> None:
    """Write the final model of a run to `out`; the adapters of a LoRA run are merged into their base.

    The folder is written beside and renamed, so it is whole or not there.

    Raises:
        InputError: If the run is no run folder or not finished, or if `out` exists.
    """
    run = RunFolder(run_path)
    config = run.read_config()
    if not run.final.is_dir():
        raise InputError(f"run={run_path}: not finished (no final/); go on with: riffusion train … resume=auto")
    if out.exists():
        raise InputError(f"out={out}: exists already; choose another folder or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".partial-{out.name}")
    if partial.exists():
        shutil.rmtree(partial)
    try:
        if config.method.name is MethodName.lora:
            components = make_components(config.model, config.seed)
            load_lora(components.unet, str(run.final))
            merge_lora(components.unet)
            write_components(partial, dataclasses.replace(components, spectrogram=load_spectrogram(run.final)))
        else:
            shutil.copytree(run.final, partial)
        manifest = json.loads(run.manifest_file.read_text(encoding="utf-8"))
        write_card(partial, name=out.name, config=config, manifest=manifest)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
