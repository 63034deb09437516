"""`python -m benchmarks.codec_table [--check] PAGE`: fill the tables of docs/codec.md from results/codec.json.

Each table is between `<!-- NAME -->` and `<!-- /NAME -->`, so that no figure in the page is typed by hand. Without results the
tables are empty.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import RESULTS, arguments_of, exit_code, parse_arguments
from riffusion_train.runtime.errors import InputError

CODEC_RESULTS = RESULTS / "codec.json"

Tables = Mapping[str, Callable[[dict[str, Any]], str]]
"""What makes the text of each table from the rows by `what`."""

_METHODS = (
    ("riffusion_v1", "draft"), ("riffusion_v1", "normal"), ("riffusion_v1", "best"),
    ("hifi", "draft"), ("hifi", "normal"), ("hifi", "best"),
)  # fmt: skip
_COLUMNS = ("log-mel error 0-16 kHz", "log-mel error 0-10 kHz", "spectral convergence", "multi-resolution STFT")
_BANDS = ("0-100", "100-300", "300-1000", "1000-3000", "3000-10000", "10000-16000")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables into a page, or only check them with `--check`. Returns the exit code: 0 done, 2 outdated tables."""

    def work() -> None:
        arguments = parse_arguments(arguments_of(argv), "one PAGE or --check", takes_name=True, flags=("--check",))
        page = Path(arguments.name)
        if not page.is_file():
            raise InputError(f"'{page}' is no page; give docs/codec.md")
        text = page.read_text(encoding="utf-8")
        results = json.loads(CODEC_RESULTS.read_text(encoding="utf-8")) if CODEC_RESULTS.is_file() else None
        filled = fill(text, results)
        if not arguments.flags:
            page.write_text(filled, encoding="utf-8")
        elif filled != text:
            raise InputError(f"{page}: its tables differ from {CODEC_RESULTS.name}; run make docs")

    return exit_code("codec_table", work)


def fill(text: str, results: dict[str, Any] | None, tables: Tables | None = None) -> str:
    """Return the text of the page with tables made from the results; without `tables`, with those of the codec."""
    rows = {row["what"]: row for row in results["rows"]} if results else {}
    for name, make in (_TABLES if tables is None else tables).items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if start and end:
            table = _machine(results) if results and name == "machine" else make(rows) if rows else ""
            text = f"{before}{start}{table}{chr(10) if table else ''}{end}{after}"
    return text


def _sound(rows: dict[str, Any]) -> str:
    lines = [
        "| codec | log-mel 0–16 kHz | log-mel 0–10 kHz | spectral convergence | multi-resolution STFT | CPU s per clip |",
        "|---|---|---|---|---|---|",
    ]
    originals = [rows[f"riffusion_v1 normal {column}"]["reference"] for column in _COLUMNS]
    seconds = rows["riffusion_v1 normal decode"]["reference"]
    lines.append(_line(["original recipe (least squares + Griffin-Lim 32)", *_errors(originals), f"{seconds:.1f}"]))
    if shipped := _as_shipped(rows):
        lines.append(shipped)
    for preset, quality in _METHODS:
        errors = [rows[f"{preset} {quality} {column}"]["ours"] for column in _COLUMNS]
        factor = rows[f"{preset} {quality} real-time factor of decode"]
        own_seconds = factor["ours"] * seconds / factor["reference"]
        lines.append(_line([f"`{preset}`, `quality={quality}`", *_errors(errors), f"{own_seconds:.2f}"]))
    return "\n".join(lines)


def _as_shipped(rows: dict[str, Any]) -> str:
    """Return the row of the original's own mel inversion, which is measured on few clips; empty if it was left out."""
    names = [f"riffusion_v1 normal {figure}, against the original as shipped" for figure in (*_COLUMNS[1:3], "decode")]
    shipped = [rows[name] for name in names if name in rows]
    if len(shipped) < len(names):
        return ""
    error, convergence, time = (row["reference"] for row in shipped)
    ours = f"{shipped[0]['ours']:.2f} dB and {shipped[1]['ours']:.3f} here"
    clips = shipped[0]["unit"].rpartition(" ")[2]  # "dB, mean of 2"
    name = f"original as shipped, on {clips} clips (`riffusion_v1` has {ours})"
    return _line([name, "", f"{error:.2f} dB", f"{convergence:.3f}", "", f"{time:.1f}"])


def _damage(rows: dict[str, Any]) -> str:
    lines = ["| image after | original recipe | `riffusion_v1` | `hifi` |", "|---|---|---|---|"]
    column = "log-mel error 0-10 kHz"
    clean = [rows[f"{preset} normal {column}"] for preset in ("riffusion_v1", "hifi")]
    lines.append(
        _line(["nothing", *(f"{value:.2f}" for value in (clean[0]["reference"], *(row["ours"] for row in clean)))])
    )
    for damage in ("noise of 2/255", "noise of 4/255", "24 kB bottleneck", "12 kB bottleneck"):
        damaged = [rows[f"{preset} normal after {damage}: {column}"] for preset in ("riffusion_v1", "hifi")]
        reference = damaged[0]["reference"]
        shown = "" if reference is None else f"{reference:.2f}"
        lines.append(_line([damage, shown, *(f"{row['ours']:.2f}" for row in damaged)]))
    return "\n".join(lines)


def _inverters(rows: dict[str, Any]) -> str:
    lines = [
        "| preset | inverter | log-mel 0–10 kHz | spectral convergence | CPU s per clip | time against `pghi` |",
        "|---|---|---|---|---|---|",
    ]
    for preset in ("riffusion_v1", "hifi"):
        for inverter in ("fast_griffin_lim", "griffin_lim"):
            what = f"{preset} inverter={inverter}, against pghi:"
            time, error, convergence = (rows[f"{what} {figure}"] for figure in ("decode", _COLUMNS[1], _COLUMNS[2]))
            lines.append(
                _line(
                    [f"`{preset}`", f"`{inverter}`", f"{error['ours']:.2f} dB (`pghi` {error['reference']:.2f})",
                     f"{convergence['ours']:.3f} ({convergence['reference']:.3f})", f"{time['ours']:.2f}",
                     f"{time['ratio']:.1f}×"]
                )
            )  # fmt: skip
    return "\n".join(lines)


def _stereo(rows: dict[str, Any]) -> str:
    lines = ["| | `hifi_stereo` | separate channels |", "|---|---|---|"]
    for figure in ("inter-channel coherence error", "log-mel error 0-16 kHz", "spectral convergence"):
        row = rows[f"hifi_stereo {figure}, against separate channels"]
        lines.append(_line([figure, f"{row['ours']:.3f}", f"{row['reference']:.3f}"]))
    return "\n".join(lines)


def _width(rows: dict[str, Any]) -> str:
    pairs = [match.groups() for what in rows if (match := re.match(r"hifi (\d+) px wide, against (\d+) px", what))]
    widths, narrowest = sorted({int(wide) for wide, _ in pairs}), pairs[0][1]
    lines = [
        "| preset | width | " + " | ".join(f"{band} Hz" for band in _BANDS) + " |",
        "|---|---|" + "---|" * len(_BANDS),
    ]
    for preset in ("riffusion_v1", "hifi"):
        for width in widths:
            cells = []
            for band in _BANDS:
                row = rows.get(f"{preset} {width} px wide, against {narrowest} px, {band} Hz: log-mel error")
                cells.append("" if row is None else f"{row['ours']:.2f} ({row['ours'] - row['reference']:+.2f})")
            lines.append(_line([f"`{preset}`", str(width), *cells]))
    return "\n".join(lines)


def _targets(rows: dict[str, Any]) -> str:
    lines = ["| what | unit | ours | reference | ratio | target | |", "|---|---|---|---|---|---|---|"]
    for row in rows.values():
        if row["target"] is None or " px wide" in row["what"]:
            continue
        ours, reference, ratio = (
            "" if value is None else f"{value:.3g}" for value in (row["ours"], row["reference"], row["ratio"])
        )
        target = row["target"].replace("<=", "≤").replace(">=", "≥")
        lines.append(
            _line([row["what"], row["unit"], ours, reference, ratio, target, "met" if row["met"] else "**missed**"])
        )
    wide = [row for row in rows.values() if " px wide" in row["what"]]
    met = sum(bool(row["met"]) for row in wide)
    lines.append(_line([f"width: {met} of {len(wide)} bands and levels", "dB", "", "", "", "within 0.1 of 512 px",
                        "met" if met == len(wide) else "**missed**"]))  # fmt: skip
    return "\n".join(lines)


def _machine(results: dict[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    return (
        f"Measured by `{results['command']}` at `{results['git']}` on {machine['processor']} ({machine['system']}), "
        f"one thread; torch {versions['torch']}, torchaudio {versions['torchaudio']}, numpy {versions['numpy']}."
    )


_TABLES: Tables = {
    "sound": _sound, "damage": _damage, "inverters": _inverters, "stereo": _stereo, "width": _width, "targets": _targets,
    "machine": _machine,
}  # fmt: skip


def _errors(values: Sequence[float]) -> list[str]:
    return [f"{values[0]:.2f} dB", f"{values[1]:.2f} dB", f"{values[2]:.3f}", f"{values[3]:.3f}"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
