"""`riffusion doctor [MODEL]`: say what a model or LoRA is; without one, what this machine offers."""

from collections.abc import Sequence

from riffusion_train.cli.arguments import HELP_FLAGS, refuse_url
from riffusion_train.runtime.errors import InputError

_USAGE = """usage: riffusion doctor [MODEL]

MODEL is a diffusers folder, a .safetensors or .ckpt file, a LoRA or a hub id: prints what it is, its base, codec, target,
dtype and size, and whether the sampler can use it. No code in it is run.
Without MODEL: versions, devices and the dtypes they train in, what optional packages can do here, disk and caches, and what
to change."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb."""
    if any(argument in HELP_FLAGS for argument in arguments):
        print(_USAGE)
        return
    if len(arguments) > 1:
        raise InputError(f"one model at a time, not {len(arguments)}: riffusion doctor MODEL")
    if arguments:
        refuse_url("", arguments[0])
    from riffusion_train.cli.model import quieten_libraries

    quieten_libraries()
    if not arguments:
        from riffusion_train.training.doctor import examine

        print("\n".join(examine().lines()))
        return
    from riffusion_train.export.describe import describe

    print("\n".join(describe(arguments[0]).lines()))
