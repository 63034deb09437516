"""Real input: the produced tracks of the package immich-memories-music, with captions made of their published labels."""

import importlib.metadata
import re
from pathlib import Path

_LINE = re.compile(r"^\s+(\S+\.opus)\s+(\d+) bpm\s+(\S+ (?:major|minor))\s+seed \d+\s+\[(\w+)\]$", re.MULTILINE)


def write_folder(folder: Path) -> int:
    """Fill `folder` with links to the tracks and a caption beside each; return how many there are."""
    package = importlib.metadata.distribution("immich-memories-music")
    labels = package.read_text("licenses/LICENSE-MUSIC")
    assert labels is not None
    entries = _LINE.findall(labels)
    tracks = {Path(str(file)).name: Path(str(file.locate())) for file in package.files or () if file.suffix == ".opus"}
    assert {name for name, *_ in entries} == set(tracks)
    folder.mkdir(parents=True)
    for name, bpm, key, instrumentation in entries:
        mood = name.split("_")[0]
        (folder / name).symlink_to(tracks[name])
        captions = [f"{mood} {instrumentation} music, {bpm} bpm, {key}", f"{mood} {instrumentation} track"]
        (folder / name).with_suffix(".txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    return len(entries)
