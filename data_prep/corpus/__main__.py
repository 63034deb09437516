"""`python -m data_prep.corpus out=DIR [kind=exercises|music] [clips=1800] [seed=0] [soundfont=PATH] [num_workers=2]`.

For kind=music also: styles=NAME,… exclude_styles=NAME,… clip_s=5.94 rate_hz=32000.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.corpus import write_corpus, write_music
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT, EXIT_STOPPED, InputError

_NUMBERS = {"clips": 1800, "seed": 0, "num_workers": 2}
_MUSIC_ONLY = ("styles", "exclude_styles", "clip_s", "rate_hz")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a corpus as the arguments say. Returns the exit code: 0 done, 2 wrong input, 3 stopped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if any(argument in ("-h", "--help") for argument in arguments):
        print(f"usage: {str(__doc__)[1:].replace('`.', '', 1)}", end="")
        return EXIT_DONE
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        kind, options = _parse(arguments)
        rendered = (write_music if kind == "music" else write_corpus)(**options)
    except InputError as error:
        print(f"data_prep.corpus: {error}", file=sys.stderr)
        return EXIT_INPUT
    except KeyboardInterrupt:
        print("data_prep.corpus: stopped; the same command continues", file=sys.stderr)
        return EXIT_STOPPED
    print(f"{options['out']}: {options['clips']} clips" + ("" if rendered else ", complete already"))
    return EXIT_DONE


def _parse(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the kind of corpus and the arguments of the function that writes it."""
    values: dict[str, str] = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if not value or key not in ("out", "kind", "soundfont", *_NUMBERS, *_MUSIC_ONLY):
            names = ", ".join(f"{name}=N" for name in _NUMBERS)
            raise InputError(
                f"unknown argument '{argument}'; give out=DIR, kind=exercises|music, soundfont=PATH, {names}"
            )
        values[key] = value
    if "out" not in values:
        raise InputError("give out=DIR")
    kind = values.pop("kind", "exercises")
    if kind not in ("exercises", "music"):
        raise InputError(f"kind={kind}: exercises or music")
    for name in _MUSIC_ONLY:
        if name in values and kind != "music":
            raise InputError(f"{name}={values[name]}: only for kind=music")
    options: dict[str, Any] = dict(_NUMBERS)
    for name in (*_NUMBERS, "clip_s", "rate_hz"):
        if name in values:
            options[name] = _number(name, values[name])
    for name in ("styles", "exclude_styles"):
        if name in values:
            options[name] = [style.strip() for style in values[name].split(",") if style.strip()]
    soundfont = values.get("soundfont", "null")
    options |= {"out": Path(values["out"]), "soundfont": None if soundfont == "null" else Path(soundfont)}
    return kind, options


def _number(name: str, value: str) -> float:
    try:
        return float(value) if name == "clip_s" else int(value)
    except ValueError:
        raise InputError(f"{name}={value}: not a {'number' if name == 'clip_s' else 'whole number'}") from None


if __name__ == "__main__":
    sys.exit(main())
