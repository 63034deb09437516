"""The command line that all benchmarks share: `[NAME] [--FLAG] [KEY=VALUE …]`."""

import dataclasses
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from benchmarks.report import Row, table, write_results
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT, InputError

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Parsed arguments.

    Attributes:
        name: The positional argument; empty if there is none.
        flags: The flags that were given, with their dashes.
        values: Values by key.
    """

    name: str
    flags: frozenset[str]
    values: dict[str, str]


def parse_arguments(
    arguments: Sequence[str],
    usage: str,
    *,
    takes_name: bool = False,
    flags: Collection[str] = (),
    keys: Collection[str] = (),
) -> Arguments:
    """Sort arguments into a name, flags and values.

    Args:
        arguments: The arguments of the command line.
        usage: What may be given, for the error message.
        takes_name: Whether one positional argument is allowed.
        flags: Allowed flags, with their dashes.
        keys: Allowed keys.

    Raises:
        InputError: If an argument is none of these.
    """
    name, given, values = "", set(), {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument in flags:
            given.add(argument)
        elif equals and key in keys:
            values[key] = value
        elif takes_name and not name:
            name = argument
        else:
            raise InputError(f"'{argument}': give {usage}")
    return Arguments(name, frozenset(given), values)


def measure(
    name: str,
    command: str,
    run: Callable[[bool, int | None], list[Row]],
    arguments: Arguments,
    *,
    number_key: str = "clips",
) -> None:
    """Run a benchmark, write `NAME.json` and print its rows.

    Args:
        name: Name of the results file.
        command: The command that was called, for the record.
        run: Measures. Its arguments are whether to be quick, and the number given by `number_key=N`, if any.
        arguments: May hold the flag `--quick`, the number, and the output folder `out`.
        number_key: Key of the number.

    Raises:
        InputError: If an argument is invalid, or if something that the benchmark needs is missing.
    """
    quick = "--quick" in arguments.flags
    number = arguments.values.get(number_key)
    if number is not None and not (number.isdecimal() and int(number)):
        raise InputError(f"{number_key}={number}: give a whole number of at least 1")
    if quick and "out" not in arguments.values:
        raise InputError("--quick gives no result worth keeping; name a folder with out=DIR")
    rows = run(quick, None if number is None else int(number))
    options = [*(["--quick"] if quick else []), *([f"{number_key}={number}"] if number else [])]
    path = Path(arguments.values.get("out", RESULTS)) / f"{name}.json"
    write_results(path, " ".join([command, *options]), rows)
    print(table(rows))
    print(f"wrote {path}")


def measure_on_gpu(
    name: str,
    module: str,
    run: Callable[[bool, int | None], list[Row]],
    argv: Sequence[str] | None,
    *,
    has_gpu: bool,
    number_key: str,
) -> int:
    """Parse the command line of a benchmark that needs a GPU, run it, and return the exit code.

    `--quick` runs on any machine. Arguments as of `measure`; `module` is the name of the benchmark's module.
    """

    def work() -> None:
        usage = f"--quick, {number_key}=N or out=DIR"
        arguments = parse_arguments(arguments_of(argv), usage, flags=("--quick",), keys=(number_key, "out"))
        if not has_gpu and not arguments.flags:
            raise InputError("this needs a GPU; --quick out=DIR shows on any machine that it runs")
        measure(name, f"python -m {module}", run, arguments, number_key=number_key)

    return exit_code(name, work)


def arguments_of(argv: Sequence[str] | None) -> list[str]:
    """Return the arguments of a `main(argv)`: those of the process if it has none."""
    return list(sys.argv[1:] if argv is None else argv)


def exit_code(program: str, work: Callable[[], None]) -> int:
    """Do the work of a command; print an `InputError` as one line. Returns the exit code: 0 done, 2 invalid input."""
    try:
        work()
    except InputError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return EXIT_INPUT
    return EXIT_DONE
