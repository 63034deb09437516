"""riffusion-train: captioned audio in, a text-to-music model out.

The names in `__all__` are the Python API; docs/python.md shows how to use them. `from riffusion_train import Sampler` returns
at once: torch, diffusers and the module of a name are imported when the name is first called or otherwise used.
"""

import importlib
import inspect
import sys
import typing
from typing import TYPE_CHECKING, Any

from riffusion_train.runtime import __version__
from riffusion_train.runtime.errors import InputError
from riffusion_train.torchaudio_guard import tolerate_broken_extension

if TYPE_CHECKING:
    from riffusion_train.audio.codec import SpectrogramCodec
    from riffusion_train.dataset.spectrograms import load_dataset
    from riffusion_train.evaluation.score import evaluate
    from riffusion_train.model.loading import load_components as load_model
    from riffusion_train.sampling.sampler import Sampler

__all__ = ["InputError", "Sampler", "SpectrogramCodec", "__version__", "evaluate", "load_dataset", "load_model"]

_SOURCES = {
    "Sampler": ("riffusion_train.sampling.sampler", "Sampler"),
    "SpectrogramCodec": ("riffusion_train.audio.codec", "SpectrogramCodec"),
    "evaluate": ("riffusion_train.evaluation.score", "evaluate"),
    "load_dataset": ("riffusion_train.dataset.spectrograms", "load_dataset"),
    "load_model": ("riffusion_train.model.loading", "load_components"),
}
"""Module and name of everything public."""

tolerate_broken_extension()


class _ImportedOnUse:
    """Stands for a class or a function until it is used: called, subclassed, asked for an attribute or for an instance.

    `from riffusion_train import Sampler` binds a name before anybody knows whether it will be used, and importing torch takes
    seconds. It works in annotations, `isinstance` and `issubclass` as the class itself does.
    """

    def __init__(self, module: str, name: str) -> None:
        self.__module__, self.__name__, self.__qualname__ = module, name, name

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _import(self)(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and self.__module__ not in sys.modules:  # typing and others look for these
            raise AttributeError(name)
        return getattr(_import(self), name)

    def __instancecheck__(self, instance: object) -> bool:
        # What is not imported has no instances, so asking does not import it.
        return self.__module__ in sys.modules and isinstance(instance, _import(self))

    def __subclasscheck__(self, kind: type) -> bool:
        return self.__module__ in sys.modules and issubclass(kind, _import(self))

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_import(self),)

    def __or__(self, other: Any) -> Any:
        return typing.Union[self, other]  # noqa: UP007 - the operator is what is defined here

    def __ror__(self, other: Any) -> Any:
        return typing.Union[other, self]  # noqa: UP007

    def __dir__(self) -> list[str]:
        return dir(_import(self))

    def __repr__(self) -> str:
        return f"<{self.__module__}.{self.__qualname__}, imported when it is used>"

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_import(self))


def _import(name: _ImportedOnUse) -> Any:
    return getattr(importlib.import_module(name.__module__), name.__qualname__)


def __getattr__(name: str) -> Any:
    """Return a public name: the object itself if its module is imported already, else what imports it on use (PEP 562)."""
    if name not in _SOURCES:
        raise AttributeError(f"module 'riffusion_train' has no attribute '{name}'")
    module, attribute = _SOURCES[name]
    if module in sys.modules and hasattr(sys.modules[module], attribute):
        return getattr(sys.modules[module], attribute)
    return _ImportedOnUse(module, attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
