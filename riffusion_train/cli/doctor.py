"""`riffusion doctor MODEL`: say what a model or LoRA is; without one, what this machine offers."""

from collections.abc import Sequence

from riffusion_train.config.errors import InputError

_USAGE = """usage: riffusion doctor [MODEL]

MODEL is a diffusers folder, a .safetensors or .ckpt file, a LoRA or a hub id: prints what it is, its base, codec, target,
kind of number and size, and whether the sampler can use it. Nothing in it is run.
Without MODEL: versions, devices and free disk."""


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
        print("\n".join(_machine_lines()))
        return
    from riffusion_train.export.describe import describe

    print("\n".join(describe(words[0]).lines()))


def _machine_lines() -> list[str]:
    import shutil

    import torch

    from riffusion_train.config.provenance import machine, versions

    here = machine()
    lines = [f"{name:<16} {version}" for name, version in versions().items()]
    lines.append(
        f"{'machine':<16} {here['processor']}, {here['cores']} cores, {here['memory_gib']} GiB, {here['system']}"
    )
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        lines.append(f"{'cuda:' + str(index):<16} {found.name}, {found.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        lines.append(f"{'mps':<16} available")
    if not torch.accelerator.is_available():
        lines.append(f"{'device':<16} cpu only")
    lines.append(f"{'free disk here':<16} {shutil.disk_usage('.').free / 2**30:.0f} GiB")
    return lines
