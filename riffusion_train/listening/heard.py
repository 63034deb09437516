"""Clips heard by an embedder, in pieces that are cached by what they were made from, so that nothing is heard twice."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from riffusion_train.listening.embedder import Clip, Embedder, Heard
from riffusion_train.listening.sound import SoundMeasures, measure_sound
from riffusion_train.runtime.errors import InputError, StoppedError, one_line
from riffusion_train.runtime.files import open_atomically
from riffusion_train.runtime.progress import ProgressReport

SCHEMA_VERSION = 1
_SUFFIX = ".safetensors"


@dataclasses.dataclass(frozen=True)
class HeardClip:
    """A clip before it is heard."""

    name: str
    track: str
    """The recording that it was cut from."""
    captions: tuple[str, ...]
    sound: Clip
    """Samples, float32 (channels, samples), and their rate."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """A piece of work that is cached by itself."""

    key: str
    """Changes with everything that decides what is heard, besides the embedder."""
    count: int
    """What it counts in the progress: its clips, or 1 where their number is known only once they are read."""
    load: Callable[[], list["HeardClip | str"]]
    """Reads the clips; in place of one that cannot be read, says why. May raise `InputError` for all of them."""


@dataclasses.dataclass
class HeardClips:
    """What was heard, clip by clip."""

    names: list[str] = dataclasses.field(default_factory=list)
    tracks: list[str] = dataclasses.field(default_factory=list)
    captions: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
    sounds: list[SoundMeasures] = dataclasses.field(default_factory=list)
    heard: list[Heard] = dataclasses.field(default_factory=list)
    failed: list[str] = dataclasses.field(default_factory=list)
    """One line for each clip that cannot be read."""

    @property
    def embeddings(self) -> npt.NDArray[np.float32]:
        """All embeddings, (clips, dim)."""
        return np.stack([one.embedding for one in self.heard])

    def extend(self, other: "HeardClips") -> None:
        """Add what another one holds."""
        for field in dataclasses.fields(self):
            getattr(self, field.name).extend(getattr(other, field.name))


def hear_units(
    units: Iterable[Unit],
    embedder: Embedder,
    source: str | None,
    cache: Path,
    title: str,
    *,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> HeardClips:
    """Hear and measure every clip of some units, those that the cache does not hold.

    Args:
        units: The work.
        embedder: What listens.
        source: Where its weights are from, as the user named it: part of the cache's key.
        cache: The folder of the cache; it is made if it does not exist. Where it cannot be written, nothing is kept.
        title: What is being done, for the progress.
        asked_to_stop: Called after each unit; True stops.

    Raises:
        StoppedError: If asked to stop; the next call goes on from there.
    """
    work = list(units)
    total = sum(unit.count for unit in work)
    everything, done = HeardClips(), 0
    with ProgressReport(title, total) as progress:
        for unit in work:
            path = cache / f"heard-{_digest(unit, embedder, source)}{_SUFFIX}"
            part = _read(path)
            if part is None:
                try:
                    part = _hear(unit.load(), embedder)
                except InputError as error:
                    part = HeardClips(failed=[one_line(error)])
                else:
                    with contextlib.suppress(OSError):  # a folder that is read-only, or a full disk
                        _write(path, part)
            everything.extend(part)
            done += unit.count
            progress.update(done)
            if asked_to_stop() and done < total:
                raise StoppedError(f"{title}: {done} of {total} are done; the same command continues")
    return everything


def _hear(loaded: Sequence[HeardClip | str], embedder: Embedder) -> HeardClips:
    clips = [one for one in loaded if isinstance(one, HeardClip)]
    return HeardClips(
        failed=[one for one in loaded if isinstance(one, str)],
        names=[clip.name for clip in clips],
        tracks=[clip.track for clip in clips],
        captions=[clip.captions for clip in clips],
        sounds=[measure_sound(*clip.sound) for clip in clips],
        heard=embedder.hear([clip.sound for clip in clips]) if clips else [],
    )


def _digest(unit: Unit, embedder: Embedder, source: str | None) -> str:
    deciding = json.dumps([SCHEMA_VERSION, unit.key, embedder.name, embedder.dim, source])
    return hashlib.blake2b(deciding.encode(), digest_size=16).hexdigest()


def _write(path: Path, part: HeardClips) -> None:
    from safetensors.numpy import save

    heard = part.heard
    tags = list(heard[0].tags) if heard else []
    arrays: dict[str, np.ndarray] = {
        "counts": np.array([len(one.patches) for one in heard], np.int64),
        "embeddings": _joined([one.embedding[None] for one in heard]),
        "patches": _joined([one.patches for one in heard]),
        "tags": np.array([[one.tags[tag] for tag in tags] for one in heard], np.float32).reshape(len(heard), len(tags)),
        "patch_tags": _joined([one.patch_tags for one in heard]),
    }
    about = {
        "names": part.names,
        "tracks": part.tracks,
        "captions": [list(one) for one in part.captions],
        "sounds": [dataclasses.asdict(one) for one in part.sounds],
        "tags": tags,
        "failed": part.failed,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        file.write(save(arrays, {"about": json.dumps(about)}))


def _joined(parts: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(np.concatenate(parts), np.float32) if parts else np.zeros((0, 0), np.float32)


def _read(path: Path) -> HeardClips | None:
    """Return what a file of the cache holds; None if there is none, or it cannot be used."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads(file.metadata()["about"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        ends = np.cumsum(arrays["counts"])[:-1]
        patches, patch_tags = (np.split(arrays[name], ends) for name in ("patches", "patch_tags"))
        heard = [
            Heard(
                embedding=embedding,
                patches=patches[number],
                tags={tag: float(score) for tag, score in zip(about["tags"], arrays["tags"][number], strict=True)},
                patch_tags=patch_tags[number],
            )
            for number, embedding in enumerate(arrays["embeddings"])
        ]
        return HeardClips(
            names=about["names"],
            tracks=about["tracks"],
            captions=[tuple(one) for one in about["captions"]],
            sounds=[SoundMeasures(**one) for one in about["sounds"]],
            heard=heard,
            failed=about["failed"],
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError):
        return None  # it is made again


def stamp(path: Path) -> list[str | int]:
    """Return name, size and time of a file, which change with its content."""
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]
