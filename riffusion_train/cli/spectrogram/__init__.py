"""`riffusion spectrogram encode | decode | inspect | compare`: the codec by hand."""

import importlib
from collections.abc import Sequence

from riffusion_train.cli.spectrogram.words import ACTIONS, parse, usage
from riffusion_train.runtime.errors import InputError


def main(words: Sequence[str]) -> None:
    """Run `riffusion spectrogram WORDS`.

    Raises:
        InputError: If the words or the files cannot be used.
    """
    if not words:
        raise InputError(f"say what to do: {', '.join(ACTIONS)}; see riffusion spectrogram --help")
    if any(word in ("-h", "--help") for word in words):
        print(usage())
        return
    action, rest = words[0], words[1:]
    if action not in ACTIONS:
        raise InputError(f"unknown action '{action}'; choose from: {', '.join(ACTIONS)}")
    files, options = parse(action, rest)
    importlib.import_module(f"riffusion_train.cli.spectrogram.{action}").run(files, options)
