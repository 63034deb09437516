"""`riffusion demo`: the whole way on this machine."""

import importlib.util
from collections.abc import Sequence

from riffusion_train.cli.command import parse
from riffusion_train.config.demo import DemoConfig
from riffusion_train.runtime.errors import InputError

_NEEDED = {"midirenderer": "midirenderer", "pretty_midi": "pretty_midi", "sklearn": "scikit-learn"}


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    config = parse("demo", DemoConfig, words)
    if config is None:
        return
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(f"the demo needs {', '.join(missing)}: pip install 'riffusion-train[demo]'")
    from riffusion_train.cli.quiet import quieten_libraries
    from riffusion_train.demo.run import run_demo

    quieten_libraries()
    page = run_demo(config, words)
    print(f"done: open {page.resolve()} in a browser")
