"""The command line that the GPU benchmarks share: `[--quick] [KEY=N] [out=DIR]`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.report import Row, table, write_results
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT, InputError

RESULTS = Path(__file__).parents[1] / "results"


def measure(
    name: str,
    module: str,
    run: Callable[[bool, int | None], list[Row]],
    key: str,
    *,
    has_gpu: bool,
    argv: Sequence[str],
) -> int:
    """Measure and write `NAME.json`.

    Args:
        name: Name of the results.
        module: Name of the benchmark's module, for the record.
        run: Measures; told whether to be quick, and the number that `key=` gave.
        key: The key that takes a number.
        has_gpu: Whether this machine can measure it.
        argv: The words of the command line.

    Returns:
        The exit code: 0 done, 2 wrong input.
    """
    quick = "--quick" in argv
    values = dict(word.split("=", 1) for word in argv if "=" in word)
    try:
        wrong = [word for word in argv if word != "--quick" and word.partition("=")[0] not in (key, "out")]
        if wrong or not values.get(key, "1").isdigit():
            raise InputError(f"'{(wrong or [key])[0]}': give --quick, {key}=N or out=DIR")
        if quick and "out" not in values:
            raise InputError("--quick gives no result worth keeping; name a folder with out=DIR")
        if not quick and not has_gpu:
            raise InputError("this needs a GPU; --quick out=DIR shows on any machine that it runs")
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_INPUT
    rows = run(quick, int(values[key]) if key in values else None)
    path = write_results(
        Path(values.get("out", RESULTS)) / f"{name}.json", " ".join(["python -m", module, *argv]), rows
    )
    print(table(rows))
    print(f"wrote {path}")
    return EXIT_DONE
