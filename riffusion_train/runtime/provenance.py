"""Where a result came from: code version, package versions, machine; and the file of figures. Imports no torch."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from riffusion_train.runtime import __version__
from riffusion_train.runtime.files import write_json

_PACKAGES = ("torch", "torchaudio", "diffusers", "transformers", "accelerate", "datasets", "peft", "numpy")


def git_state() -> str | None:
    """Return the commit of this checkout, with `-dirty` if files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() if (root / ".git").exists() else None


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the libraries that affect results."""
    numbers = {"riffusion-train": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        numbers[package] = importlib.metadata.version(package)
    return numbers


def machine() -> dict[str, Any]:
    """Return processor, cores, memory and system of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def write_rows(
    path: Path,
    command: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    more: Mapping[str, Any] | None = None,
    indent: int = 2,
) -> None:
    """Write measured figures with what they came from: the command, git state, machine, versions, and the rows.

    Every `benchmarks/results/NAME.json`, the demo's `figures.json` and the `scores.json` of `evaluate score` have this form.

    Args:
        path: The file; its folder must exist.
        command: The command that made the figures, as a user would type it.
        rows: `{what, unit, ours, reference, ratio}` each, with minimum and maximum.
        more: What else the file holds, by name.
        indent: Spaces for each level.

    Raises:
        ValueError: If a number is infinite or not a number, which is no standard JSON.
    """
    data = {
        "command": command,
        "git": git_state(),
        "machine": machine(),
        "versions": versions(),
        "rows": [dict(row) for row in rows],
        **(more or {}),
    }
    write_json(path, data, indent=indent, allow_nan=False)


def usable_cores() -> int:
    """Return how many cores this process may use, hyperthreads included; a container may have fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
