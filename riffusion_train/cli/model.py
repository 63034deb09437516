"""The model of a command: `riffusion doctor [MODEL|CLIP]`, which says what it is; loading it, with quiet libraries."""

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riffusion_train.cli.arguments import HELP_FLAGS
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import refuse_url

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


def is_clip(argument: str) -> bool:
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
    if arguments and is_clip(arguments[0]):
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
