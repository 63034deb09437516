"""Where a result came from: code version, package versions, machine. Imports no torch."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from riffusion_train.runtime import __version__

_PACKAGES = ("torch", "torchaudio", "diffusers", "transformers", "accelerate", "datasets", "peft", "numpy")


def git_state() -> str | None:
    """Return the commit of this checkout, with `-dirty` where files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() if (root / ".git").exists() else None


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the libraries that shape a result."""
    found = {"riffusion-train": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found


def machine() -> dict[str, Any]:
    """Return what the machine is: processor, cores, memory, system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def usable_cores() -> int:
    """Return how many cores this process may use, hyperthreads counted; a container may have fewer than the machine."""
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
