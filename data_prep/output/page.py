"""The dataset page: `index.html`, which opens from disk, with the images and sounds of some slices in `page/` beside it.

The sounds are decoded from the images, so that one hears what a model learns. Files are named by a hash of what they are made
of: after new captions or more tracks, and after an interruption, what is there already is not made again.
"""

import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from data_prep.inputs.storage import Storage, is_local, open_storage
from data_prep.output.page_data import MAX_TRACKS, ShownSlice, choose_slices, describe_dataset, thinned
from data_prep.tracks.track_worker import one_thread
from data_prep.writers import read_images
from riffusion_train.audio.read import decode_audio
from riffusion_train.audio.write import write_audio
from riffusion_train.config.prepare import PageConfig, PrepareConfig
from riffusion_train.config.spectrogram import to_data
from riffusion_train.dataset.layout import PAGE_DIR, PAGE_FILE, DatasetFolder
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.runtime.files import remove_partials, static_page, write_atomically, write_json
from riffusion_train.runtime.progress import ProgressReport, StopRequest
from riffusion_train.runtime.provenance import usable_cores

SCRIPTS = ("elements.js", "charts.js", "sound.js", "captions.js", "main.js")
"""The parts of the page's script, in order; they share one scope."""
_MADE_FILE = "made.json"
"""In `page/`: what the page was made of; written last."""
_VERSION = 1
"""To be raised when the page, or its images or sounds, are made in another way."""
_QUALITY = "draft"
_COMPRESSION = 0.7
_IMAGE_QUALITY = 60


@dataclasses.dataclass(frozen=True)
class PageOptions:
    """How large the page of a dataset is."""

    slices: int = 200
    """Most slices with image and sound."""
    audio: bool = False
    """Whether it also plays the same seconds of the audio files."""
    megabytes: float = 30.0
    """Most megabytes of the page and its files."""
    num_workers: int | None = None
    """Threads; None is one for each available core."""

    @classmethod
    def from_config(cls, config: PrepareConfig | PageConfig) -> "PageOptions":
        """Return the options of a config."""
        return cls(config.page_slices, config.page_audio, config.page_mb, config.num_workers)


def is_current(folder: DatasetFolder, options: PageOptions) -> bool:
    """Return whether the page of a dataset is the one that these options make."""
    try:
        made = json.loads((folder.path / PAGE_DIR / _MADE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(made == _made_of(folder, options)) and (folder.path / PAGE_FILE).is_file()


def _made_of(folder: DatasetFolder, options: PageOptions) -> dict[str, Any]:
    stats = hashlib.sha256(json.dumps(folder.stats, sort_keys=True).encode()).hexdigest()
    sizes = {name: value for name, value in dataclasses.asdict(options).items() if name != "num_workers"}
    return {"version": _VERSION, "stats": stats, **sizes}


def write_page(folder: DatasetFolder, options: PageOptions | None = None) -> Path:
    """Write the page of a finished dataset; the same dataset and options give the same page.

    Args:
        folder: The dataset, of any version.
        options: How large the page is.

    Returns:
        The path of `index.html`.

    Raises:
        InputError: If an image of the dataset is damaged.
        StoppedError: On SIGINT or SIGTERM; the dataset is finished, and the same command continues with the page.
        OSError: If the disk is full.
    """
    options = options or PageOptions()
    page_dir = folder.path / PAGE_DIR
    page_dir.mkdir(exist_ok=True)
    remove_partials(page_dir)
    data, slices = describe_dataset(folder)
    if data["all_tracks"] > MAX_TRACKS:
        print(f"  the page lists {MAX_TRACKS} of {data['all_tracks']} tracks; edit captions with captions=review")
    shown = choose_slices(slices, options.slices)
    media = _Media(folder, data["tracks"], options).make(shown)
    data["has_audio"] = options.audio and any("audio" in item for item in media)
    whole = _page_html(data, media)
    spare = options.megabytes * 1e6 - len(whole.encode())
    kept = _within(spare, media, page_dir)
    if len(kept) < len(media):
        print(f"  the page shows {len(kept)} of {len(media)} slices, to stay below page_mb={options.megabytes:g}")
    write_atomically(folder.path / PAGE_FILE, _page_html(data, kept))
    names = {_MADE_FILE, *(name for item in kept for name in _files_of(item))}
    for path in page_dir.iterdir():
        if path.name not in names and path.is_file():
            path.unlink()
    write_json(page_dir / _MADE_FILE, _made_of(folder, options))
    return folder.path / PAGE_FILE


def page_line(folder: DatasetFolder) -> str:
    """Return the line that tells where the page is and how large it is."""
    files = [folder.path / PAGE_FILE, *(folder.path / PAGE_DIR).iterdir()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    return f"  to see and hear it, and to edit captions: {folder.path / PAGE_FILE} ({megabytes:.1f} MB)"


def _page_html(data: dict[str, Any], media: Sequence[dict[str, Any]]) -> str:
    return static_page("data_prep.output", SCRIPTS, "Dataset", {**data, "slices": list(media)})


def _files_of(item: dict[str, Any]) -> list[str]:
    return [item[kind] for kind in ("image", "sound", "audio") if kind in item]


def _within(spare: float, media: Sequence[dict[str, Any]], page_dir: Path) -> list[dict[str, Any]]:
    """Return as many of the slices, evenly spread, as fit into `spare` bytes, by the measured sizes of their files."""
    size_of = {name: (page_dir / name).stat().st_size for item in media for name in _files_of(item)}
    kept = list(media)
    while (
        kept and (total := sum(size_of[name] for name in {name for item in kept for name in _files_of(item)})) > spare
    ):
        kept = list(thinned(media, max(0, min(len(kept) - 1, math.floor(len(kept) * spare / total)))))
    return kept


class _Media:
    """Makes the images and sounds of slices.

    Args:
        folder: The dataset.
        tracks: The tracks of the page's data.
        options: Whether the audio files are played as well, and the number of threads.
    """

    def __init__(self, folder: DatasetFolder, tracks: Sequence[dict[str, Any]], options: PageOptions) -> None:
        self._folder, self._tracks, self._options = folder, tracks, options
        self._dir = folder.path / PAGE_DIR
        self._storage = _storage_of(folder) if options.audio else None
        from riffusion_train.audio.codec import make_codec

        self._codec = make_codec(folder.spectrogram)
        self._salt = json.dumps([_VERSION, _QUALITY, _COMPRESSION, _IMAGE_QUALITY, to_data(folder.spectrogram)])

    def make(self, shown: Sequence[ShownSlice]) -> list[dict[str, Any]]:
        """Make the files that are missing. Returns what the page says of each slice."""
        own: dict[int, list[ShownSlice]] = {}
        for item in shown if self._options.audio else ():
            own.setdefault(item.track, []).append(item)
        chosen = self._options.num_workers
        threads = max(usable_cores() if chosen is None else chosen, 1)
        media: list[dict[str, Any]] = []
        originals: list[dict[tuple[int, float], str]] = []
        with (
            one_thread(),
            ThreadPoolExecutor(threads) as pool,
            ProgressReport("make the dataset page", len(shown) + len(own)) as progress,
            StopRequest() as stop,
        ):
            for batch in _batches(self._with_images(shown), 4 * threads):
                self._check(stop)
                media += pool.map(lambda pair: self._make_one(*pair), batch)
                progress.update(len(media))
            for tracks in _batches(iter(own.values()), threads):
                self._check(stop)
                originals += pool.map(self._cut, tracks)
                progress.update(len(media) + len(originals))
        audio = {key: name for names in originals for key, name in names.items()}
        if lacking := len(own) - sum(bool(names) for names in originals):
            print(f"  page_audio: the audio files of {lacking} tracks are not on this machine; they are left out")
        media.sort(key=lambda item: (item["track"], item["start_s"]))
        named = ((item, audio.get((item["track"], item["start_s"]))) for item in media)
        return [item | ({"audio": name} if name else {}) for item, name in named]

    def _check(self, stop: StopRequest) -> None:
        if stop.asked:
            raise StoppedError(f"{self._folder.path} is finished, its page is not; the same command continues")

    def _with_images(self, shown: Sequence[ShownSlice]) -> Iterator[tuple[ShownSlice, bytes]]:
        for split in dict.fromkeys(item.split for item in shown):
            own = {item.number: item for item in shown if item.split == split}
            yield from ((own[number], png) for number, png in read_images(self._folder, split, own))

    def _make_one(self, item: ShownSlice, png: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(f"{self._salt} {item.max_value!r} {item.duration_s!r}\n".encode() + png).hexdigest()
        name = digest[:16]
        image, sound = f"{name}.webp", f"{name}.mp3"
        if not (self._dir / image).is_file() or not (self._dir / sound).is_file():
            try:
                with PIL.Image.open(io.BytesIO(png)) as file:
                    file.load()
                    picture = file.copy()
            except Exception as error:  # Pillow raises classes of many kinds
                raise InputError(
                    f"{self._tracks[item.track]['source']} at {item.start_s:.2f} s: the image is damaged "
                    f"({type(error).__name__}); riffusion prepare check {self._folder.path} lists all damage"
                ) from None
            wav = self._codec.decode(picture, item.max_value, quality=_QUALITY)
            self._write_sound(sound, wav[:, : math.ceil(item.duration_s * self._codec.rate_hz)], self._codec.rate_hz)
            sink = io.BytesIO()
            picture.save(sink, "WEBP", quality=_IMAGE_QUALITY, method=2)
            write_atomically(self._dir / image, sink.getvalue())
        return {
            "track": item.track,
            "start_s": round(item.start_s, 3),
            "duration_s": round(item.duration_s, 3),
            "image": image,
            "sound": sound,
            **({"captions": list(item.captions)} if item.captions else {}),
        }

    def _write_sound(self, name: str, wav: np.ndarray, rate_hz: int) -> None:
        write_audio(self._dir / name, wav, rate_hz, compression=_COMPRESSION)

    def _cut(self, items: Sequence[ShownSlice]) -> dict[tuple[int, float], str]:
        """Cut the same seconds out of the audio file of one track. Returns the names of the files by track and start.

        They get the gain that the images got, so that both are equally loud. Empty if the file is not where it was.
        """
        track = self._tracks[items[0].track]
        locator = self._storage.locate(track["source"]) if self._storage is not None else None
        if locator is None or not Path(locator).is_file():
            return {}
        stamp = [
            locator,
            Path(locator).stat().st_size,
            Path(locator).stat().st_mtime_ns,
            track["gain_db"],
            _COMPRESSION,
        ]
        names = [
            hashlib.sha256(json.dumps([*stamp, item.start_s, item.duration_s]).encode()).hexdigest()[:16] + ".mp3"
            for item in items
        ]
        if not all((self._dir / name).is_file() for name in names):
            decoded = decode_audio(Path(locator), self._dir)
            gain = 10 ** ((track["gain_db"] or 0) / 20)
            for item, name in zip(items, names, strict=True):
                first, last = (round(at_s * decoded.rate_hz) for at_s in (item.start_s, item.start_s + item.duration_s))
                self._write_sound(name, decoded.samples.read(first, last)[:2] * gain, decoded.rate_hz)
        return {(item.track, round(item.start_s, 3)): name for item, name in zip(items, names, strict=True)}


def _storage_of(folder: DatasetFolder) -> Storage | None:
    """Return the local files that a dataset was made of; None if they are elsewhere."""
    audio = str(folder.stats.get("parameters", {}).get("audio", ""))
    if not audio or not is_local(audio):
        return None
    try:
        return open_storage(audio, folder.path)
    except InputError:
        return None


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
