"""riffusion-train: captioned audio in, a text-to-music model out.

The names in `__all__` are the Python API; docs/python.md shows how to use them. `from riffusion_train import Sampler` returns
at once: torch, diffusers and the module of a name are imported when the name is first called or otherwise used.
"""

import sys
from typing import TYPE_CHECKING, Any

from riffusion_train.runtime import __version__
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.on_use import ImportedOnUse
from riffusion_train.torchaudio_guard import tolerate_broken_extension

if TYPE_CHECKING:
    from riffusion_train.audio.codec.codec import SpectrogramCodec
    from riffusion_train.dataset.spectrograms import load_dataset
    from riffusion_train.evaluation.score import evaluate
    from riffusion_train.model.loading import load_components as load_model
    from riffusion_train.sampling.sampler import Sampler

__all__ = ["InputError", "Sampler", "SpectrogramCodec", "__version__", "evaluate", "load_dataset", "load_model"]

_SOURCES = {
    "Sampler": ("riffusion_train.sampling.sampler", "Sampler"),
    "SpectrogramCodec": ("riffusion_train.audio.codec.codec", "SpectrogramCodec"),
    "evaluate": ("riffusion_train.evaluation.score", "evaluate"),
    "load_dataset": ("riffusion_train.dataset.spectrograms", "load_dataset"),
    "load_model": ("riffusion_train.model.loading", "load_components"),
}
"""Module and name of everything public."""

tolerate_broken_extension()


def __getattr__(name: str) -> Any:
    """Return a public name: the object itself if its module is imported already, else what imports it on use (PEP 562)."""
    if name not in _SOURCES:
        raise AttributeError(f"module 'riffusion_train' has no attribute '{name}'")
    module, attribute = _SOURCES[name]
    if module in sys.modules and hasattr(sys.modules[module], attribute):
        return getattr(sys.modules[module], attribute)
    return ImportedOnUse(module, attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
