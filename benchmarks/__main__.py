"""`python -m benchmarks NAME [--quick] [clips=N] [out=DIR]`: measure, print the rows, and write DIR/NAME.json.

NAME=judge takes scale=S instead of clips=N: its trainings are shorter by that factor. NAME=play takes model=MODEL, which it
measures how soon changes are heard with.
"""

import importlib
import sys
from collections.abc import Sequence

from benchmarks.command import Arguments, arguments_of, exit_code, measure, parse_arguments
from benchmarks.report import Row
from riffusion_train.runtime.errors import EXIT_DONE, InputError

NAMES = (
    "codec",
    "prepare",
    "sample",
    "train",
    "loading",
    "cache_dtype",
    "store",
    "play",
    "listening",
    "captions",
    "caption_tags",
    "caption_drums",
    "caption_checks",
    "prepare_listening",
    "judge",
    "planted_copies",
    "startup",
    "roofline",
    "train_true_size",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark. Returns the exit code: 0 done, 2 invalid input."""
    given = arguments_of(argv)
    if {"-h", "--help"} & set(given):
        print(f"usage: {__doc__}NAME: {', '.join(NAMES)}")
        return EXIT_DONE

    def work() -> None:
        usage = "one NAME, --quick, clips=N or out=DIR"
        arguments = parse_arguments(
            given, usage, takes_name=True, flags=("--quick",), keys=("clips", "scale", "model", "out")
        )
        name = arguments.name
        if name not in NAMES:
            raise InputError(f"unknown benchmark '{name}'; choose from: {', '.join(NAMES)}")
        command = f"python -m benchmarks {name}"
        if name == "judge":
            _judge(command, arguments)
            return
        if "scale" in arguments.values:
            raise InputError(f"scale=: is of the benchmark judge; {name} takes clips=N")
        options = {key: arguments.values[key] for key in ("model",) if key in arguments.values}
        if options and name != "play":
            raise InputError(f"model=: is of the benchmark play; {name} takes clips=N")
        module = importlib.import_module(f"benchmarks.{name}")

        def run(quick: bool, number: int | None) -> list[Row]:
            return list(module.run(quick=quick, max_clips=number, **options))

        measure(name, " ".join([command, *(f"{key}={value}" for key, value in options.items())]), run, arguments)

    return exit_code("benchmarks", work)


def _judge(command: str, arguments: Arguments) -> None:
    from benchmarks import judge

    if "clips" in arguments.values:
        raise InputError("clips=: judge takes scale=S, such as scale=0.5 for trainings of half the length")
    given = arguments.values.get("scale", "1")
    try:
        scale = float(given)
    except ValueError:
        scale = 0.0
    if not 0 < scale <= 1:
        raise InputError(f"scale={given}: give a number above 0, up to 1")
    shorter = f" scale={scale:g}" if scale < 1 else ""
    measure("judge", command + shorter, lambda quick, _: judge.run(quick=quick, scale=scale), arguments)


if __name__ == "__main__":
    sys.exit(main())
