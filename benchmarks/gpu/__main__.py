"""`python -m benchmarks.gpu [--quick] [minutes=8] [out=DIR]`: what is to be known of a GPU, in one go of eight minutes.

In this order: what the GPU reaches at all (one large product, one large copy), the cases of training SD 1.5, the codec, and the
tests that need a GPU. It prints as it goes and writes a file after each part, so that nothing is lost when it is stopped. Then
`python -m benchmarks.gpu.train_laptop` is a real training, in ten minutes of its own. `--quick` runs on any machine.
"""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.command import RESULTS, arguments_of, exit_code, parse_arguments
from benchmarks.report import Row, table, write_results
from riffusion_train.runtime.errors import InputError

NEEDED = (
    "accelerate", "diffusers", "hydra", "mutagen", "numba", "omegaconf", "peft", "pyarrow", "safetensors", "soundfile", "soxr",
    "tokenizers", "transformers", "xxhash", "zlib_ng",
)  # fmt: skip
"""Packages that the parts import; one that is missing would be met minutes later."""
FOR_LAPTOP = ("av", "librosa", "midirenderer", "pretty_midi", "rich")
"""What `train_laptop` needs besides."""
_SHARE_OF_TRAINING = 0.75


def ceilings(*, quick: bool) -> list[Row]:
    """Measure one large product in bf16 and one large copy: what nothing else on this device can surpass."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side, numbers = (128, 2**16) if quick else (8192, 2**30)
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(numbers, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    products = [2 * side**3 / second / 1e12 for second in _seconds(lambda: one @ other, device)]
    copies = [2 * 2 * numbers / second / 1e9 for second in _seconds(lambda: target.copy_(source), device)]
    return [
        Row(f"product of {side} x {side}, bf16", "TFLOP/s", products, median=True),
        Row("copy within the memory, bytes read and written", "GB/s", copies, median=True),
    ]


def _seconds(work: object, device: torch.device) -> list[float]:
    seconds = []
    for repeat in range(8):
        start = time.perf_counter()
        work()  # type: ignore[operator]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if repeat >= 3:
            seconds.append(time.perf_counter() - start)
    return seconds


def missing(names: Sequence[str]) -> list[str]:
    """Return the packages of these that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def run(out: Path, command: str, *, quick: bool = False, minutes: float = 8.0) -> None:
    """Do all parts.

    Args:
        out: Where the files go.
        command: The command that was called, for the record.
        quick: Tiny sizes, on any machine.
        minutes: The whole time.
    """
    from benchmarks.gpu import codec, train_sd15

    end = time.monotonic() + 60 * minutes
    rows = ceilings(quick=quick)
    print(table(rows), flush=True)
    write_results(out / "gpu.json", command, rows)

    training_s = _SHARE_OF_TRAINING * (end - time.monotonic())
    train_sd15.run(
        lambda rows: print(f"wrote {write_results(out / 'train_sd15.json', command, rows)}", flush=True),
        quick=quick,
        minutes=training_s / 60,
    )
    print(f"the codec; {end - time.monotonic():.0f} s are left", flush=True)
    write_results(out / "codec_gpu.json", command, codec.run(quick=quick, max_clips=None if quick else 8))

    print(f"the tests; {end - time.monotonic():.0f} s are left", flush=True)
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    if importlib.util.find_spec("pytest") is not None and not quick:
        try:
            subprocess.run(tests, check=False, timeout=max(60.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            print("the tests were stopped: the time is used up", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Do it. Returns the exit code: 0 done, 2 invalid input."""
    from benchmarks.gpu.train_sd15 import minutes_of

    def work() -> None:
        given = parse_arguments(
            arguments_of(argv), "--quick, minutes=N or out=DIR", flags=("--quick",), keys=("minutes", "out")
        )
        quick = "--quick" in given.flags
        lacks = missing(NEEDED)
        if lacks:
            raise InputError(f"not installed here: {', '.join(lacks)}; pip install them first")
        if lacks := missing(FOR_LAPTOP):
            print(f"note: train_laptop needs {', '.join(lacks)} as well, which are not installed", flush=True)
        if not quick and not torch.cuda.is_available():
            raise InputError("this needs a GPU; --quick out=DIR shows on any machine that it runs")
        if quick and "out" not in given.values:
            raise InputError("--quick gives no result worth keeping; name a folder with out=DIR")
        command = " ".join(["python -m benchmarks.gpu", *arguments_of(argv)])
        run(Path(given.values.get("out", RESULTS)), command, quick=quick, minutes=minutes_of(given.values, 8.0))

    return exit_code("benchmarks.gpu", work)


if __name__ == "__main__":
    sys.exit(main())
