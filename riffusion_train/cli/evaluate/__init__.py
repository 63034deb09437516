"""`riffusion evaluate grid`: sample models into a page to listen and compare."""

import importlib
from collections.abc import Sequence

from riffusion_train.runtime.errors import InputError

ACTIONS = {"grid": "prompts × checkpoints × seeds as a page to listen and compare"}


def main(words: Sequence[str]) -> None:
    """Run `riffusion evaluate WORDS`.

    Raises:
        InputError: If the words cannot be used.
    """
    if words and words[0] in ("-h", "--help"):
        rows = "\n".join(f"  {action:<8} {text}" for action, text in ACTIONS.items())
        print(f"usage: riffusion evaluate ACTION …\n\n{rows}\n\nriffusion evaluate ACTION --help lists its keys.")
        return
    if not words or words[0] not in ACTIONS:
        said = f"unknown action '{words[0]}'" if words else "say what to do"
        raise InputError(f"{said}; choose from: {', '.join(ACTIONS)}; see riffusion evaluate --help")
    importlib.import_module(f"riffusion_train.cli.evaluate.{words[0]}").run(words[1:])
