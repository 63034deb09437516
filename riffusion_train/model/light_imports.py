"""Import diffusers and transformers without torch's compiler, which nothing needs that does not compile.

`diffusers.utils.torch_utils` and `transformers.masking_utils` import `torch._dynamo` for a decorator and a context that matter
inside of `torch.compile` only; that import brings sympy, FSDP and DTensor along and takes about as long as that of torch.
Here a stand-in takes its place for the length of the import: decorators that change nothing, and a context that becomes the
real one when it is entered. Code that compiles calls `tell_compiler` before, which decorates for real.
"""

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

COMPILER = "torch._dynamo"
"""Without this module, nothing is compiled."""
_CONTEXTS = f"{COMPILER}._trace_wrapped_higher_order_op"
_NAMES = {
    "diffusers": ("AutoencoderKL", "PNDMScheduler", "UNet2DConditionModel"),
    "transformers": ("CLIPTextConfig", "CLIPTextModel"),
}


_opaque: list[Any] = []
"""What `allow_in_graph` was asked to leave whole in a compiled graph while the stand-in was in its place."""


def import_networks() -> None:
    """Import the classes of a model's parts."""
    if COMPILER not in sys.modules:
        # Where a version needs more of the compiler than the stand-in has, it is imported for real below.
        with contextlib.suppress(ImportError, AttributeError, RuntimeError, TypeError), _compiler_replaced():
            _import()
    _import()


def tell_compiler() -> None:
    """Import the compiler, and tell it what the classes of a model's parts have to tell it. Call it before compiling one."""
    compiler = importlib.import_module(COMPILER)
    while _opaque:
        compiler.allow_in_graph(_opaque.pop())


def _import() -> None:
    for package, names in _NAMES.items():
        module = importlib.import_module(package)
        for name in names:
            getattr(module, name)


@contextlib.contextmanager
def _compiler_replaced() -> Iterator[None]:
    """Put the stand-ins into `sys.modules`, and take them out again; torch then finds the real ones as if nothing had been."""
    compiler, contexts = _Compiler(COMPILER), types.ModuleType(_CONTEXTS)
    compiler.__path__ = []
    contexts.TransformGetItemToIndex = _TransformGetItemToIndex  # type: ignore[attr-defined]
    replaced = {COMPILER: compiler, _CONTEXTS: contexts}
    sys.modules.update(replaced)
    try:
        yield
    finally:
        for name, module in replaced.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        torch = sys.modules.get("torch")
        if torch is not None and vars(torch).get("_dynamo") is compiler:
            del torch._dynamo


class _Compiler(types.ModuleType):
    """Stands for `torch._dynamo`: each function is a decorator, with or without arguments, that changes nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _left_whole if name == "allow_in_graph" else _unchanged


def _left_whole(decorated: Any) -> Any:
    _opaque.append(decorated)
    return decorated


def _unchanged(function: Any = None, *_arguments: Any, **_options: Any) -> Any:
    return function if callable(function) else lambda decorated: decorated


class _TransformGetItemToIndex:
    """Becomes the compiler's context of this name when it is made."""

    def __new__(cls) -> Any:
        return importlib.import_module(_CONTEXTS).TransformGetItemToIndex()
