"""The verbs about a model: `riffusion doctor`, `riffusion export` and `riffusion import`; and loading a model for others.

`doctor [MODEL|CLIP]` says what it is; the others write the model of a run, or any model, in a format that others read.
"""

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from riffusion_train.cli.arguments import HELP_FLAGS, Command
from riffusion_train.config.denoising import recommended_data
from riffusion_train.config.model import ExportConfig, ExportFormat, ImportConfig
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import refuse_url
from riffusion_train.runtime.hub import check_source

if TYPE_CHECKING:
    from riffusion_train.sampling.sampler import Sampler

_USAGE = """usage: riffusion doctor [MODEL|CLIP]

MODEL is laptop, a diffusers folder, a .safetensors or .ckpt file, a LoRA or a hub id: prints what it is, its base, codec,
target, dtype and size, and whether the sampler can use it. No code in it is run.
CLIP is a sound or an image (.wav .flac .ogg .opus .mp3 .png .jpg): says whether it is marked as synthetic, and which model and
dataset made it; an unmarked one is an error.
Without MODEL: versions, devices and the dtypes they train in, what optional packages can do here, disk and caches, and what
to change."""


def quieten_libraries() -> None:
    """Show only errors of transformers, diffusers and bitsandbytes, and hide their deprecation warnings."""
    # On its import, bitsandbytes asks for a package that only 4-bit weights need.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import diffusers.utils.logging
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def load_sampler(model: str, loras: Sequence[str], num_threads: int | None, **options: Any) -> "Sampler":
    """Return the sampler of a model; `options` as in `Sampler.load`.

    Raises:
        InputError: If the model or a LoRA cannot be used.
    """
    import torch

    from riffusion_train.sampling.sampler import Sampler

    quieten_libraries()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    if options.get("guide") is not None:
        from riffusion_train.training.run_model import load_guide

        options["guide"] = load_guide(options["guide"])
    sampler = Sampler.load(model, loras=loras, **options)
    if sampler.codec_notice is not None:
        print(sampler.codec_notice, file=sys.stderr)
    return sampler


def _is_clip(argument: str) -> bool:
    """Return whether an argument names a sound or an image, by its suffix."""
    from riffusion_train.audio.marking import IMAGES, SOUNDS

    return Path(argument).suffix.lower() in (*SOUNDS, *IMAGES)


def main_doctor(arguments: Sequence[str]) -> None:
    """Run `riffusion doctor [MODEL|CLIP]`.

    Raises:
        InputError: If the model cannot be used, or the clip is not marked.
    """
    if any(argument in HELP_FLAGS for argument in arguments):
        print(_USAGE)
        return
    if len(arguments) > 1:
        raise InputError(f"one model or clip at a time, not {len(arguments)}: riffusion doctor FILE")
    if arguments:
        refuse_url("", arguments[0])
    if arguments and _is_clip(arguments[0]):
        from riffusion_train.export.describe import describe_clip

        print("\n".join(describe_clip(Path(arguments[0]).expanduser())))
        return
    quieten_libraries()
    if not arguments:
        from riffusion_train.training.doctor import examine

        print("\n".join(examine().lines()))
        return
    from riffusion_train.export.describe import describe

    description = describe(arguments[0])
    print("\n".join(description.lines()))
    if description.fault is not None:
        raise InputError(description.fault)


_EXPORT = Command(name="export", root=ExportConfig, local_keys=("out", "run", "scores", "notes", "prompts"))
_IMPORT = Command(
    name="import", root=ImportConfig, usage="MODEL|LORA", takes_positionals=True, local_keys=("out", "base", "codec")
)


def main_export(arguments: Sequence[str]) -> None:
    """Run `riffusion export`."""
    parsed = _EXPORT.parse(arguments)
    if parsed is None:
        return
    if not Path(parsed.config.run).expanduser().exists():
        raise InputError(f"{parsed.config.run}: not a run folder (there is nothing); give the folder that train wrote")
    recommended_data(parsed.config.recommended)
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
