"""`python -m data_prep.corpus out=DIR [clips=1800] [seed=0] [soundfont=PATH] [num_workers=2]`."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.corpus.corpus import write_corpus
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT, EXIT_STOPPED, InputError

_NUMBERS = {"clips": 1800, "seed": 0, "num_workers": 2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a corpus as the arguments say. Returns the exit code: 0 done, 2 wrong input, 3 stopped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if any(argument in ("-h", "--help") for argument in arguments):
        print(f"usage: {__doc__[1:-2]}")
        return EXIT_DONE
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        out, soundfont, numbers = _parse(arguments)
        rendered = write_corpus(out, soundfont=soundfont, **numbers)
    except InputError as error:
        print(f"data_prep.corpus: {error}", file=sys.stderr)
        return EXIT_INPUT
    except KeyboardInterrupt:
        print("data_prep.corpus: stopped; the same command continues", file=sys.stderr)
        return EXIT_STOPPED
    print(f"{out}: {numbers['clips']} clips" + ("" if rendered else ", complete already"))
    return EXIT_DONE


def _parse(arguments: Sequence[str]) -> tuple[Path, Path | None, dict[str, int]]:
    values: dict[str, str] = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if not value or key not in ("out", "soundfont", *_NUMBERS):
            names = ", ".join(f"{name}=N" for name in _NUMBERS)
            raise InputError(f"unknown argument '{argument}'; give out=DIR, soundfont=PATH, {names}")
        values[key] = value
    if "out" not in values:
        raise InputError("give out=DIR")
    numbers = dict(_NUMBERS)
    for name in numbers.keys() & values.keys():
        try:
            numbers[name] = int(values[name])
        except ValueError:
            raise InputError(f"{name}={values[name]}: not a whole number") from None
    soundfont = values.get("soundfont", "null")
    return Path(values["out"]), None if soundfont == "null" else Path(soundfont), numbers


if __name__ == "__main__":
    sys.exit(main())
