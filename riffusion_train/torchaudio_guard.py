"""Let `import torchaudio` work on every build of torch.

torchaudio 2.11 ships a compiled extension that is linked against one CUDA version. On a CPU build of torch, and on any
torch built for another CUDA version, loading it raises `OSError`, and with it fails the import of transformers and
diffusers, which import torchaudio whenever they can find it. Only torchaudio's pure-PyTorch part is used here. So the
import of the extension is tolerated to fail: the real one is tried, and an empty one stands in for it if it cannot load.

`import riffusion_train` installs this. So does `import torch` where this package is installed, by the entry point
`torch.backends`, which torch calls at the end of its own import: then plain `from diffusers import …` works as well.
"""

import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

EXTENSION = "torchaudio._extension"
_ERROR = "riffusion_train_error"


class _TolerantLoader(importlib.machinery.SourceFileLoader):
    """Loads the extension, or leaves it empty where it cannot be loaded."""

    def exec_module(self, module: types.ModuleType) -> None:
        try:
            super().exec_module(module)
        except (OSError, ImportError, RuntimeError) as error:
            empty: dict[str, Any] = {
                "_IS_TORCHAUDIO_EXT_AVAILABLE": False,
                "_IS_ALIGN_AVAILABLE": False,
                "fail_if_no_align": _unchanged,
                "_check_cuda_version": _no_version,
                _ERROR: str(error),
            }
            vars(module).update(empty)


class _ExtensionFinder:
    """Finds torchaudio's extension, and nothing else, for the tolerant loader."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != EXTENSION:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = _TolerantLoader(spec.loader.name, spec.loader.path)
        return spec


def tolerate_broken_extension() -> None:
    """Let torchaudio be imported where its extension cannot be loaded. Never raises, and imports nothing."""
    if _ExtensionFinder not in sys.meta_path:
        sys.meta_path.insert(0, _ExtensionFinder)


def extension_error() -> str | None:
    """Return why torchaudio's extension could not be loaded; None if it was loaded, or not imported yet."""
    return getattr(sys.modules.get(EXTENSION), _ERROR, None)


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _no_version() -> None:
    return None
