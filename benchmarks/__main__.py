"""`python -m benchmarks NAME [--quick] [clips=N] [out=DIR]`: measure, print the rows, and write DIR/NAME.json."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import table, write_results
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT, InputError

NAMES = ("codec", "prepare", "sample", "train", "loading", "play")
RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark. Returns the exit code: 0 done, 2 wrong input."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(f"usage: {__doc__}\nNAME: {', '.join(NAMES)}")
        return EXIT_DONE
    try:
        name, quick, clips, out = _parse(words)
        rows = importlib.import_module(f"benchmarks.{name}").run(quick=quick, most_clips=clips)
        command = " ".join(
            ["python -m benchmarks", name, *(["--quick"] if quick else []), *([f"clips={clips}"] if clips else [])]
        )
        path = write_results(out / f"{name}.json", command, rows)
    except InputError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return EXIT_INPUT
    print(table(rows))
    print(f"wrote {path}")
    return EXIT_DONE


def _parse(words: Sequence[str]) -> tuple[str, bool, int | None, Path]:
    name, quick, clips, out = "", False, None, RESULTS
    for word in words:
        if word == "--quick":
            quick = True
        elif word.startswith("clips=") and word.removeprefix("clips=").isdecimal():
            clips = max(1, int(word.removeprefix("clips=")))
        elif word.startswith("out="):
            out = Path(word.removeprefix("out="))
        elif not name:
            name = word
        else:
            raise InputError(f"'{word}': give one NAME, --quick, clips=N or out=DIR")
    if name not in NAMES:
        raise InputError(f"unknown benchmark '{name}'; choose from: {', '.join(NAMES)}")
    if quick and out == RESULTS:
        raise InputError("--quick gives no result worth keeping; name a folder with out=DIR")
    return name, quick, clips, out


if __name__ == "__main__":
    sys.exit(main())
