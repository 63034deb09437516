"""Corpora composed by rule: short captioned clips, the exercises of the demo, and music in many styles (music/).

A corpus is an audio file and a caption sidecar for each clip, and a table of all clips:

DIR/00000.flac      5.12 s of mono audio (exercises), or 5.94 s of stereo audio (music)
DIR/00000.txt       its captions, one per line
DIR/metadata.jsonl  file_name, caption (a list), and every attribute, one line per clip; written last
DIR/corpus.json     the settings that the corpus was made with
"""

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol

from data_prep.corpus import palette
from data_prep.corpus.exercises import (
    attributes_of,
    captions_of,
    compose_notes,
    default_soundfont,
    flac_bytes,
    load_soundfont,
    midi_bytes,
    render_clip,
    require_renderer,
)
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_atomically, write_json
from riffusion_train.runtime.progress import ProgressReport

_TABLE_FILE = "metadata.jsonl"
_SETTINGS_FILE = "corpus.json"

_BATCH_SIZE = 8
"""Clips that a worker renders between two reports."""


class Source(Protocol):
    """What clips are made of; it travels to the processes that render them."""

    @property
    def seed(self) -> int:
        """Seed of the whole corpus."""

    def settings(self) -> dict[str, object]:
        """Return what determines every clip, for `_SETTINGS_FILE`."""

    def check(self) -> None:
        """Raise an InputError if clips cannot be rendered here."""

    def render(self, clip: int) -> tuple[bytes, list[str]]:
        """Return a clip as a FLAC file, and its captions."""

    def describe(self, clip: int) -> tuple[list[str], dict[str, Any]]:
        """Return the captions of a clip, and its attributes as columns."""


def write_corpus(
    out: Path, clips: int = 1800, seed: int = 0, soundfont: Path | None = None, num_workers: int = 2
) -> bool:
    """Compose, caption and render a corpus of exercises; clips that exist already are kept.

    Args:
        out: Folder of the corpus; created if missing.
        clips: Number of clips. A later call may extend a corpus, but not shrink it.
        seed: Seed of the whole corpus.
        soundfont: A SoundFont 2 file with General MIDI programs; None takes the one in the package `pretty_midi`.
        num_workers: Number of processes; 0 renders in this one.

    Returns:
        Whether anything was rendered: False if the corpus was complete already.

    Raises:
        InputError: If the extra `demo` is missing, the SoundFont cannot be used, or `out` holds another corpus.
    """
    return _write(out, clips, Exercises(seed, soundfont or default_soundfont()), num_workers)


def write_music(
    out: Path,
    clips: int = 1800,
    seed: int = 0,
    soundfont: Path | None = None,
    num_workers: int = 2,
    styles: Sequence[str] | None = None,
    exclude_styles: Sequence[str] = (),
    clip_s: float | None = None,
    rate_hz: int | None = None,
) -> bool:
    """Compose, caption and render a corpus of music in many styles; clips that exist already are kept.

    Args:
        out: Folder of the corpus; created if missing.
        clips: Number of clips. A later call may extend a corpus, but not shrink it.
        seed: Seed of the whole corpus.
        soundfont: A SoundFont 2 file with General MIDI programs; None takes FluidR3 GM where it is installed, else the one
            in the package `pretty_midi`.
        num_workers: Number of processes; 0 renders in this one.
        styles: Names of `music.styles.STYLES`; None for all.
        exclude_styles: Names left out.
        clip_s: Length of a clip; None for the default of `music.clip`.
        rate_hz: Sample rate of the files; None for the default of `music.clip`.

    Returns:
        Whether anything was rendered: False if the corpus was complete already.

    Raises:
        InputError: If a style does not exist, the SoundFont cannot be used, or `out` holds another corpus.
    """
    from data_prep.corpus.music.clip import make_source

    return _write(out, clips, make_source(seed, soundfont, styles, exclude_styles, clip_s, rate_hz), num_workers)


@dataclasses.dataclass(frozen=True)
class Exercises:
    """The exercises: one instrument and perhaps drums, every attribute drawn independently, so that captions can be judged."""

    seed: int
    font_path: Path

    def settings(self) -> dict[str, object]:
        """Return seed, font and the hash of the palette."""
        return {
            "seed": self.seed,
            "soundfont": self.font_path.name,
            "soundfont_sha256": hashlib.sha256(self._font).hexdigest(),
            "palette_sha256": _palette_hash(),
        }

    def check(self) -> None:
        """Raise an InputError if the extra `demo` is missing."""
        require_renderer()

    def render(self, clip: int) -> tuple[bytes, list[str]]:
        """Return a clip as a FLAC file, and its captions."""
        attributes = attributes_of(self.seed, clip)
        midi = midi_bytes(compose_notes(attributes, self.seed, clip), attributes.instrument)
        return flac_bytes(render_clip(self._font, midi)), captions_of(attributes, self.seed, clip)

    def describe(self, clip: int) -> tuple[list[str], dict[str, Any]]:
        """Return the captions of a clip, and its attributes as columns."""
        attributes = attributes_of(self.seed, clip)
        return captions_of(attributes, self.seed, clip), dataclasses.asdict(attributes)

    @property
    def _font(self) -> bytes:
        return _load_font(self.font_path)


@functools.lru_cache(maxsize=1)
def _load_font(path: Path) -> bytes:
    return load_soundfont(path)


def _write(out: Path, clips: int, source: Source, num_workers: int) -> bool:
    if clips < 1:
        raise InputError(f"clips={clips}: at least 1")
    if num_workers < 0:
        raise InputError(f"num_workers={num_workers}: 0 or more")
    _claim(out, source.settings())
    done = _table_length(out)
    if done > clips:
        raise InputError(f"out={out}: holds {done} clips, more than clips={clips}; choose another out=DIR")
    missing = [clip for clip in range(clips) if not _is_finished(out, clip)]
    if missing:
        source.check()
        with ProgressReport("render clips", len(missing)) as progress:
            for done_now, _ in enumerate(_render_all(out, missing, source, num_workers), start=1):
                progress.update(done_now)
    elif done == clips:
        return False
    _write_table(out, clips, source)
    return bool(missing)


def file_stem(clip: int) -> str:
    """Return the file name of a clip without its suffix."""
    return f"{clip:05d}"


def _palette_hash() -> str:
    # Of the file itself: any change of the palette makes another corpus, which must not be mixed with an old one.
    return hashlib.sha256(Path(palette.__file__).read_bytes()).hexdigest()


def _claim(out: Path, settings: dict[str, object]) -> None:
    """Write the settings into a new folder, or check that an existing one holds the same corpus."""
    path = out / _SETTINGS_FILE
    if path.is_file():
        try:
            existing = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise InputError(f"{path}: not valid JSON; delete it or choose another out=DIR") from None
        differing = sorted(key for key in settings if existing.get(key) != settings[key])
        if differing:
            raise InputError(f"out={out}: holds a corpus with another {', '.join(differing)}; choose another out=DIR")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings, ascii_only=True)


def _table_length(out: Path) -> int:
    path = out / _TABLE_FILE
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def _is_finished(out: Path, clip: int) -> bool:
    # Each file appears only when it is complete, the audio after the captions.
    return (out / f"{file_stem(clip)}.flac").is_file() and (out / f"{file_stem(clip)}.txt").is_file()


def _write_clip(out: Path, clip: int, source: Source) -> None:
    flac, captions = source.render(clip)
    stem = file_stem(clip)
    write_atomically(out / f"{stem}.txt", "\n".join(captions) + "\n")
    write_atomically(out / f"{stem}.flac", flac)


def _render_all(out: Path, clips: list[int], source: Source, num_workers: int) -> Iterator[int]:
    """Render clips; yields each one once it is written."""
    if num_workers == 0:
        for clip in clips:
            _write_clip(out, clip, source)
            yield clip
        return
    batches = [clips[start : start + _BATCH_SIZE] for start in range(0, len(clips), _BATCH_SIZE)]
    # Spawned processes rather than forked ones, since the caller may hold torch's threads.
    context = multiprocessing.get_context("spawn")
    workers = min(num_workers, len(batches))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        for future in as_completed([pool.submit(_render_batch, out, batch, source) for batch in batches]):
            yield from future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent handles it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _render_batch(out: Path, clips: list[int], source: Source) -> list[int]:
    for clip in clips:
        _write_clip(out, clip, source)
    return clips


def _write_table(out: Path, clips: int, source: Source) -> None:
    rows = []
    for clip in range(clips):
        captions, attributes = source.describe(clip)
        row = {"file_name": f"{file_stem(clip)}.flac", "caption": captions, **attributes}
        rows.append(json.dumps(row, ensure_ascii=False))
    write_atomically(out / _TABLE_FILE, "\n".join(rows) + "\n")
