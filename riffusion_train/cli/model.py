"""The model of a command: quiet libraries, CPU threads, and a line where the model does not name its codec."""

import logging
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riffusion_train.sampling.sampler import Sampler


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
    sampler = Sampler.load(model, loras=loras, **options)
    if sampler.codec_notice is not None:
        print(sampler.codec_notice, file=sys.stderr)
    return sampler
