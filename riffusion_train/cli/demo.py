"""`riffusion demo`: a model from nothing on this machine, with a page to listen to it."""

import importlib.util
from collections.abc import Sequence

from riffusion_train.cli.arguments import Command
from riffusion_train.config.demo import DemoConfig
from riffusion_train.runtime.errors import InputError

_COMMAND = Command(name="demo", root=DemoConfig, local_keys=("out",))
_REQUIRED = {"midirenderer": "midirenderer", "pretty_midi": "pretty_midi", "sklearn": "scikit-learn"}
"""Modules of the extra `demo`, and the packages that bring them: they compose the corpus and judge the clips made from it."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb."""
    parsed = _COMMAND.parse(arguments)
    if parsed is None:
        return
    composes = parsed.config.audio_dir is None
    missing = [package for module, package in _REQUIRED.items() if importlib.util.find_spec(module) is None]
    if composes and missing:
        raise InputError(f"the demo needs {', '.join(missing)}: pip install 'riffusion-train[demo]'")
    from riffusion_train.cli.model import quieten_libraries
    from riffusion_train.demo.run import run_demo

    quieten_libraries()
    page = run_demo(parsed.config, arguments)
    print(f"done: open {page.resolve()} in a browser")
