"""A class or a function that is imported when it is used."""

import importlib
import importlib.machinery
import inspect
import sys
import types
import typing
from typing import Any


class StandIn(types.ModuleType):
    """Stands for a module that nobody has used yet; each name in it is imported from the real one on use."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)  # who asks whether there is one gets a yes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return ImportedOnUse(self.__name__, name)


class ImportedOnUse:
    """Stands for a class or a function until it is used: called, subclassed, asked for an attribute or for an instance.

    `from riffusion_train import Sampler` binds a name before anybody knows whether it will be used, and importing torch takes
    seconds. It works in annotations, `isinstance` and `issubclass` as the class itself does.
    """

    def __init__(self, module: str, name: str) -> None:
        self.__module__, self.__name__, self.__qualname__ = module, name, name

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Import the real one and call it."""
        return _real(self)(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and not _is_imported(self):  # typing and others look for these
            raise AttributeError(name)
        return getattr(_real(self), name)

    def __instancecheck__(self, instance: object) -> bool:
        # What is not imported has no instances, so asking does not import it.
        return _is_imported(self) and isinstance(instance, _real(self))

    def __subclasscheck__(self, kind: type) -> bool:
        return _is_imported(self) and issubclass(kind, _real(self))

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_real(self),)

    def __or__(self, other: Any) -> Any:
        return typing.Union[self, other]  # noqa: UP007 - the operator is what is defined here

    def __ror__(self, other: Any) -> Any:
        return typing.Union[other, self]  # noqa: UP007

    def __dir__(self) -> list[str]:
        return dir(_real(self))

    def __repr__(self) -> str:
        return f"<{self.__module__}.{self.__qualname__}, imported when it is used>"

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_real(self))


def _is_imported(name: ImportedOnUse) -> bool:
    module = sys.modules.get(name.__module__)
    return module is not None and not isinstance(module, StandIn)


def _real(name: ImportedOnUse) -> Any:
    if not _is_imported(name):
        sys.modules.pop(name.__module__, None)  # a stand-in, whose time is over
    return getattr(importlib.import_module(name.__module__), name.__qualname__)
