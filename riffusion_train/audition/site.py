"""The audition site: the clips of a folder as one HTML page that opens from disk, and as JSON for other programs."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from riffusion_train.audition.measures import (
    METRICS,
    Measured,
    Metric,
    heard_lufs,
    matching_target_lufs,
    measure_clip,
)
from riffusion_train.audition.scores import read_scores, score_metrics, scores_of
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_atomically, write_json
from riffusion_train.runtime.pages import static_page

SCRIPTS = ("elements.js", "ratings.js", "player.js", "grid.js", "details.js", "link.js", "main.js")
"""The parts of the page's script, in order; they share one scope."""


def page_html(data: Mapping[str, Any]) -> str:
    """Return the page of a site's data; all texts in it are data, and none becomes markup."""
    return static_page("riffusion_train.audition", SCRIPTS, str(data["title"]), data)


PAGE_FILE = "index.html"
SITE_FILE = "site.json"
SCHEMA_VERSION = 1

_MEASURED = {"stamp", "duration_s", "channels", "metrics"}


@dataclasses.dataclass(frozen=True)
class Version:
    """A column of the grid: a model, or one model at one strength of guidance."""

    name: str
    """Its name on the page; no two have the same."""
    source: str
    """The model's path or hub id."""
    step: int | None = None
    """Training steps, if known."""
    note: str = ""
    """What else is known of it, in a few words, such as its figures."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A clip of the grid. Its `.png`, its `.json` (the settings) and its sound are side by side."""

    stem: str
    """Path of its files without the suffix, relative to the site's folder, with forward slashes."""
    version: str
    """The name of its version."""
    command: str
    """The command that makes exactly this clip."""
    audio_format: str = "wav"


@dataclasses.dataclass(frozen=True)
class Site:
    """Everything that the page shows."""

    title: str
    command: str
    """The command that makes all of it, or empty."""
    versions: Sequence[Version]
    cells: Sequence[Cell]


def write_site(folder: Path, site: Site) -> Path:
    """Write `index.html` and `site.json` into the folder of the clips; return the page's path.

    A clip is measured once: the next call takes its measures from `site.json`. The scores of the clips are taken from
    `scores.json` in the folder, if there is one.

    Raises:
        InputError: If a clip's image, sound or settings are missing or cannot be read.
    """
    known = _known_measures(folder / SITE_FILE)
    versions = {version.name: f"v{number}" for number, version in enumerate(site.versions, start=1)}
    if len(versions) != len(site.versions):
        raise ValueError("two versions have the same name")
    cells = [_cell_data(folder, cell, versions[cell.version], known) for cell in site.cells]
    metrics = (*METRICS, *_add_scores(folder, cells))
    loudnesses = [cell["heard_lufs"] for cell in cells if cell["heard_lufs"] is not None]
    data = {
        "schema_version": SCHEMA_VERSION,
        "title": site.title,
        "command": site.command,
        "target_lufs": matching_target_lufs(loudnesses),
        "metrics": [dataclasses.asdict(metric) for metric in metrics],
        "versions": [{"id": versions[version.name], **dataclasses.asdict(version)} for version in site.versions],
        "cells": cells,
    }
    write_json(folder / SITE_FILE, data, indent=1)
    shown = [{name: value for name, value in cell.items() if name != "stamp"} for cell in cells]
    write_atomically(folder / PAGE_FILE, page_html({**data, "cells": shown}))
    return folder / PAGE_FILE


def _cell_data(folder: Path, cell: Cell, version: str, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    path = PurePosixPath(cell.stem)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{cell.stem} is not inside the site's folder")
    audio, image, settings_file = (f"{cell.stem}.{kind}" for kind in (cell.audio_format, "png", "json"))
    for name in (audio, image, settings_file):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: missing; make the clip again, or leave it out")
    settings = _read_settings(folder / settings_file)
    stamp = [_stamp(folder / audio), _stamp(folder / image)]
    earlier = known.get(cell.stem)
    if earlier is not None and earlier["stamp"] == stamp:
        measures = {
            metric.name: earlier["metrics"][metric.name] for metric in METRICS if metric.name in earlier["metrics"]
        }
        measured = Measured(earlier["duration_s"], earlier["channels"], measures)
    else:
        measured = measure_clip(folder / audio, folder / image)
    return {
        "id": _identity(cell.stem, settings),
        "version": version,
        "stem": cell.stem,
        "audio": audio,
        "image": image,
        "duration_s": measured.duration_s,
        "channels": measured.channels,
        "heard_lufs": heard_lufs(measured),
        "metrics": measured.metrics,
        "settings": settings,
        "command": cell.command,
        "stamp": stamp,
    }


def _add_scores(folder: Path, cells: Sequence[dict[str, Any]]) -> tuple[Metric, ...]:
    """Add the scores of clips to their data; return the metrics that at least one clip has."""
    scores, names = read_scores(folder), set[str]()
    for cell in cells:
        values, more = scores_of(cell["audio"], scores, cell["metrics"].get("loudness_lufs"))
        cell["metrics"] = {**cell["metrics"], **values}
        cell.update(more)
        names |= values.keys()
    return score_metrics(names)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        fits = isinstance(settings["prompt"], str) and isinstance(settings["seed"], int)
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise InputError(f"{path}: holds no settings of a generated clip; make the clip again, or leave it out")
    return dict(settings)


def _identity(stem: str, settings: Mapping[str, Any]) -> str:
    """Return an id that a clip keeps while the site grows and moves, so that its ratings and links stay valid."""
    text = json.dumps([stem, settings], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _known_measures(path: Path) -> dict[str, dict[str, Any]]:
    """Return the cells that a site already lists, by stem; none if it cannot be read or has other measures."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["metrics"][: len(METRICS)] != [dataclasses.asdict(metric) for metric in METRICS]:
            return {}
        return {cell["stem"]: cell for cell in data["cells"] if cell.keys() >= _MEASURED}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _stamp(path: Path) -> list[int]:
    """Return what changes when a file does."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
