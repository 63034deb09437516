"""Let `import torchaudio` work on every build of torch.

torchaudio 2.11 ships a compiled extension that is linked against one CUDA version. On a CPU build of torch, and on any
torch built for another CUDA version, loading it raises `OSError`, and with it fails the import of transformers and
diffusers, which import torchaudio whenever they can find it. Only torchaudio's pure-PyTorch part is used here, so an empty
stand-in is registered under the extension's name before anything can import the real one.
"""

import sys
import types
from collections.abc import Callable
from typing import Any

EXTENSION = "torchaudio._extension"


def register_empty_extension() -> None:
    """Put an empty `torchaudio._extension` into `sys.modules`, unless one is there already."""
    if EXTENSION in sys.modules:
        return
    module: Any = types.ModuleType(EXTENSION)
    module.__doc__ = __doc__
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module._IS_ALIGN_AVAILABLE = False
    module.fail_if_no_align = _unchanged
    module._check_cuda_version = _no_version
    sys.modules[EXTENSION] = module


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _no_version() -> None:
    return None
