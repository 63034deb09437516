"""`riffusion doctor MODEL`: say what a model or LoRA is; without one, what this machine offers."""

from collections.abc import Sequence

from riffusion_train.runtime.errors import InputError

_USAGE = """usage: riffusion doctor [MODEL]

MODEL is a diffusers folder, a .safetensors or .ckpt file, a LoRA or a hub id: prints what it is, its base, codec, target,
kind of number and size, and whether the sampler can use it. Nothing in it is run.
Without MODEL: versions, devices and the number formats they train in, what optional packages can do here, disk and caches,
and what to change."""


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    if any(word in ("-h", "--help") for word in words):
        print(_USAGE)
        return
    if len(words) > 1:
        raise InputError(f"one model at a time, not {len(words)}: riffusion doctor MODEL")
    from riffusion_train.cli.quiet import quieten_libraries

    quieten_libraries()
    if not words:
        from riffusion_train.training.doctor import examine

        print("\n".join(examine().lines()))
        return
    from riffusion_train.export.describe import describe

    print("\n".join(describe(words[0]).lines()))
