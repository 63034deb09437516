"""Import diffusers and transformers without what they import in case: compiler, sharding, adapters, quantizers.

A UNet imports peft for a hook that casts layers; peft imports a language model for its names, that one FSDP, DTensor and scipy;
and both libraries import `torch._dynamo` for a decorator. Together this takes longer than importing torch, and a forward pass
has no use for it. Here stand-ins take the place of these modules for the length of the import, and what was
imported from them becomes the real thing when it is used (`runtime/on_use.py`). Decorators of the compiler do nothing until
`tell_compiler` is called, which code that compiles does first.
"""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

from riffusion_train.runtime.on_use import StandIn

COMPILER = "torch._dynamo"
"""Without this module, nothing is compiled."""
_POSTPONED = (
    "torch._dynamo._trace_wrapped_higher_order_op",
    "torch.distributed._composable.fsdp",
    "torch.distributed.checkpoint.hf_storage",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.distributed.tensor._utils",
    "torch.distributed.tensor.placement_types",
    "bitsandbytes",
    "peft.helpers",
    "peft.tuners.tuners_utils",
    "scipy.integrate",
    "scipy.optimize",
    "scipy.stats",
    "transformers.distributed.expert_parallel",
    "transformers.distributed.tensor_parallel",
    "transformers.quantizers",
    "transformers.quantizers.auto",
    "transformers.quantizers.quantizers_utils",
)
_KEPT = "peft.tuners.tuners_utils"
"""Every forward pass of a UNet imports this one, before it looks whether there are adapters; see `_Peft`."""
_NAMES = {
    "diffusers": ("AutoencoderKL", "PNDMScheduler", "UNet2DConditionModel"),
    "transformers": ("CLIPTextConfig", "CLIPTextModel"),
}
_opaque: list[Any] = []
"""What `allow_in_graph` was asked to leave whole in a compiled graph while a stand-in was in its place."""


def import_networks() -> None:
    """Import the classes of a model's parts."""
    # Where a version needs more of a module than its stand-in has, it is imported for real below.
    with contextlib.suppress(ImportError, AttributeError, RuntimeError, TypeError, ValueError), _postponed():
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
    # Reading a scheduler imports those that it can be exchanged for, each of which looks for `scipy.stats`.
    importlib.import_module("diffusers").PNDMScheduler._get_compatibles()


@contextlib.contextmanager
def _postponed() -> Iterator[None]:
    """Put stand-ins for modules that are not imported yet into `sys.modules`, and take them out again."""
    names = [] if COMPILER in sys.modules else [COMPILER]
    names += [
        name for name in _POSTPONED if name not in sys.modules and importlib.util.find_spec(name.partition(".")[0])
    ]
    stand_ins = {name: _Compiler(name) if name == COMPILER else StandIn(name) for name in names}
    apart = [name for name in stand_ins if _parent(name) in stand_ins or name.startswith("peft.")]
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        if _KEPT in stand_ins and _Peft not in sys.meta_path:
            sys.meta_path.insert(0, _Peft)
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module and (name != _KEPT or "peft" in sys.modules):
                del sys.modules[name]
        for name in apart:  # a package that was imported after all needs its modules
            if _parent(name) in sys.modules:
                importlib.import_module(name)


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


class _Peft:
    """Takes the stand-in out as soon as anybody imports peft itself; finds nothing."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Return nothing, so that the others look for it."""
        if name == "peft" and isinstance(sys.modules.get(_KEPT), StandIn):
            del sys.modules[_KEPT]


class _Compiler(StandIn):
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
