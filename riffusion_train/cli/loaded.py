"""The sampler of a command: quiet libraries, threads, and a word where the model does not say what its pictures mean."""

import sys
from collections.abc import Sequence
from typing import Any

import torch

from riffusion_train.cli.quiet import quieten_libraries
from riffusion_train.sampling.sampler import Sampler


def load_sampler(model: str, loras: Sequence[str], num_threads: int | None, **options: Any) -> Sampler:
    """Return the sampler of a model; `options` as of `Sampler.load`.

    Raises:
        InputError: If the model or a LoRA cannot be used.
    """
    quieten_libraries()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    sampler = Sampler.load(model, loras=loras, **options)
    if sampler.codec_notice is not None:
        print(sampler.codec_notice, file=sys.stderr)
    return sampler
