"""`python -m benchmarks NAME [--quick] [clips=N] [out=DIR]`: measure, print the rows, and write DIR/NAME.json."""

import importlib
import sys
from collections.abc import Sequence

from benchmarks.command import arguments_of, exit_code, measure, parse_arguments
from riffusion_train.runtime.errors import EXIT_DONE, InputError

NAMES = (
    "codec",
    "prepare",
    "sample",
    "train",
    "loading",
    "play",
    "listening",
    "captions",
    "caption_tags",
    "caption_checks",
    "prepare_listening",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark. Returns the exit code: 0 done, 2 invalid input."""
    given = arguments_of(argv)
    if {"-h", "--help"} & set(given):
        print(f"usage: {__doc__}\nNAME: {', '.join(NAMES)}")
        return EXIT_DONE

    def work() -> None:
        usage = "one NAME, --quick, clips=N or out=DIR"
        arguments = parse_arguments(given, usage, takes_name=True, flags=("--quick",), keys=("clips", "out"))
        name = arguments.name
        if name not in NAMES:
            raise InputError(f"unknown benchmark '{name}'; choose from: {', '.join(NAMES)}")
        module = importlib.import_module(f"benchmarks.{name}")
        measure(
            name,
            f"python -m benchmarks {name}",
            lambda quick, number: module.run(quick=quick, max_clips=number),
            arguments,
        )

    return exit_code("benchmarks", work)


if __name__ == "__main__":
    sys.exit(main())
