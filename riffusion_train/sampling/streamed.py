"""Long clips that are written to disk while they are made, so that memory does not grow with their length."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from riffusion_train.audio.codec.codec import EncodedClip
from riffusion_train.audio.codec.image_file import save_image
from riffusion_train.audio.io.loudness import LoudnessMeter, loudness_gain
from riffusion_train.audio.io.write import AudioWriter
from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.sampling.clip import Clip, repr_html, tags_of, write_settings
from riffusion_train.sampling.settings import SETTINGS_KEY, Settings

_BLOCK = 1 << 16
_WIDEST_PX = 16384
"""Wider pictures are saved in parts, which `riffusion spectrogram decode` joins again."""

_SLICE_KEY = "slice"


class Spool:
    """An array on disk that grows along time: columns of a picture, or samples of a sound, one after the other.

    Args:
        path: The file.
        shape: Shape of one column or sample.
        dtype: Its numbers.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type) -> None:
        self._path, self._shape, self._dtype = path, shape, np.dtype(dtype)
        self.length = 0

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows, (n, *shape)."""
        with self._path.open("ab") as file:
            file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self.length += len(rows)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return some rows."""
        size = int(np.prod(self._shape))
        count = max(min(stop, self.length) - start, 0)
        found = np.fromfile(self._path, self._dtype, count * size, offset=start * size * self._dtype.itemsize)
        return found.reshape(-1, *self._shape)

    def blocks(self, size: int = _BLOCK) -> Iterator[np.ndarray]:
        """Yield all rows, some at a time."""
        for start in range(0, self.length, size):
            yield self.read(start, start + size)


class StreamedClip(Clip):
    """A clip whose picture and sound lie on disk until it is saved; `image` and `audio` read them whole.

    Args:
        spectrogram: The codec.
        settings: How the clip is made.
        pieces: The sound in order, with the columns of the picture that have come since: (picture, samples).
        target_lufs: The loudness to bring it to; None leaves the level.
        ceiling_dbtp: Highest true peak.
        report: Told the seconds that are done.
    """

    def __init__(
        self,
        spectrogram: SpectrogramConfig,
        settings: Settings,
        pieces: Iterable[tuple[np.ndarray | None, np.ndarray]],
        *,
        target_lufs: float | None,
        ceiling_dbtp: float,
        report: Callable[[float], None] | None = None,
    ) -> None:
        folder = tempfile.TemporaryDirectory(prefix="riffusion-")
        columns: Spool | None = None
        samples: Spool | None = None
        meter: LoudnessMeter | None = None
        for image, wav in pieces:
            if image is not None:
                turned = image.swapaxes(0, 1)
                columns = columns or Spool(Path(folder.name, "columns"), turned.shape[1:], np.uint8)
                columns.append(turned)
            if samples is None or meter is None:
                samples = Spool(Path(folder.name, "samples"), (wav.shape[0],), np.float32)
                meter = LoudnessMeter(spectrogram.rate_hz, wav.shape[0])
            samples.append(wav.T)
            meter.push(wav)
            if report is not None:
                report(samples.length / spectrogram.rate_hz)
        assert columns is not None and samples is not None and meter is not None
        fields = {
            "spectrogram": spectrogram,
            "settings": settings,
            "gain": loudness_gain(*meter.finish(), target_lufs, ceiling_dbtp),
            "columns": columns,
            "samples": samples,
            "_folder": folder,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    columns: Spool
    samples: Spool
    gain: float

    @property
    def image(self) -> np.ndarray:  # type: ignore[override]
        """The whole picture, read from disk."""
        return self.columns.read(0, self.columns.length).swapaxes(0, 1)

    @property
    def audio(self) -> np.ndarray:  # type: ignore[override]
        """The whole sound, read from disk: float32 (channels, samples)."""
        return np.ascontiguousarray(self.samples.read(0, self.samples.length).T) * np.float32(self.gain)

    @property
    def duration_s(self) -> float:
        """Length of the sound."""
        return self.samples.length / self.rate_hz

    def save(self, stem: str | Path, audio_format: str = "wav") -> list[Path]:
        """Write the files of the clip as `Clip.save` does, block by block; a very wide picture becomes several."""
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        sound = stem.with_name(f"{stem.name}.{audio_format}")
        first = self.samples.read(0, 1)
        with AudioWriter(sound, self.rate_hz, first.shape[1], tags_of(self.settings)) as writer:
            for rows in self.samples.blocks():
                writer.write(rows.T * np.float32(self.gain))
        pictures = list(self._save_pictures(stem))
        write_settings(stem.with_name(f"{stem.name}.json"), self.settings)
        return [sound, *pictures, stem.with_name(f"{stem.name}.json")]

    def _save_pictures(self, stem: Path) -> Iterator[Path]:
        import json

        width = self.columns.length
        count = -(-width // _WIDEST_PX)
        for index in range(count):
            texts = {SETTINGS_KEY: self.settings.as_text()}
            start = index * _WIDEST_PX
            if count > 1:
                place = {"index": index, "count": count, "start_px": start, "strip_px": width, "source": stem.name}
                texts[_SLICE_KEY] = json.dumps(place)
            path = stem.with_name(f"{stem.name}-{index:03d}.png" if count > 1 else f"{stem.name}.png")
            part = np.ascontiguousarray(self.columns.read(start, start + _WIDEST_PX).swapaxes(0, 1))
            save_image(path, EncodedClip(part, 0.0), self.spectrogram, texts)
            yield path

    def _repr_html_(self) -> str:
        seconds = 60
        rows = self.samples.read(0, seconds * self.rate_hz).T * np.float32(self.gain)
        part = np.ascontiguousarray(self.columns.read(0, 4096).swapaxes(0, 1))
        return repr_html(part, rows, self.rate_hz, self.settings)
