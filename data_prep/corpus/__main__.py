"""`python -m data_prep.corpus out=DIR [clips=1800] [seed=0] [soundfont=PATH] [num_workers=2]`."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.corpus.corpus import write_corpus
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT, EXIT_STOPPED, InputError

_NUMBERS = {"clips": 1800, "seed": 0, "num_workers": 2}


def main(argv: Sequence[str] | None = None) -> int:
    """Write a corpus as the words say. Returns the exit code: 0 done, 2 wrong input, 3 stopped."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(f"usage: {__doc__[1:-2]}")
        return EXIT_DONE
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        out, soundfont, numbers = _parse(words)
        fresh = write_corpus(out, soundfont=soundfont, **numbers)
    except InputError as error:
        print(f"data_prep.corpus: {error}", file=sys.stderr)
        return EXIT_INPUT
    except KeyboardInterrupt:
        print("data_prep.corpus: stopped; the same command goes on where it was", file=sys.stderr)
        return EXIT_STOPPED
    print(f"{out}: {numbers['clips']} clips" + ("" if fresh else ", complete already"))
    return EXIT_DONE


def _parse(words: Sequence[str]) -> tuple[Path, Path | None, dict[str, int]]:
    out: Path | None = None
    soundfont: Path | None = None
    numbers = dict(_NUMBERS)
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not value or key not in ("out", "soundfont", *numbers):
            raise InputError(f"'{word}': give out=DIR, soundfont=PATH, {', '.join(f'{name}=N' for name in numbers)}")
        if key == "out":
            out = Path(value)
        elif key == "soundfont":
            soundfont = None if value == "null" else Path(value)
        else:
            try:
                numbers[key] = int(value)
            except ValueError:
                raise InputError(f"{key}={value}: not a whole number") from None
    if out is None:
        raise InputError("give out=DIR")
    return out, soundfont, numbers


if __name__ == "__main__":
    sys.exit(main())
