"""Clips heard by an embedder, in pieces that are cached by what they were made from, so that nothing is heard twice.

With each clip also how it sounds, whatever music it is: loudness, clipping, silence, bandwidth, DC offset, repetition within
the clip.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from riffusion_train.audio.loudness import CLIPPED_SHARE, clipped_share, measure_lufs
from riffusion_train.audio.mel import HTK_CORNER_HZ, mel_filter_bank
from riffusion_train.audio.read import resample
from riffusion_train.listening.embedder import Clip, Embedder, Heard
from riffusion_train.runtime.errors import InputError, StoppedError, one_line
from riffusion_train.runtime.files import open_atomically
from riffusion_train.runtime.progress import ProgressReport

# --- how a clip sounds -----------------------------------------------------------------------------------------------

Wav = npt.NDArray[np.float32]

SILENCE_DBFS = -60.0
"""A frame whose level (RMS over all channels) is below this counts as silence."""
BANDWIDTH_DB = -60.0
"""A frequency holds energy if its average level is at most so far below the loudest one."""
_FRAME_S = 0.05
_SMOOTHING_HZ = 200.0
_N_FFT = 4096

REPEAT_AFTER_S = 1.0
"""Shortest lag at which a clip is compared with itself: shorter ones are the beat and held notes."""
_REPEAT_RATE_HZ = 16000
_REPEAT_BANDS, _REPEAT_HOP, _REPEAT_FFT = 64, 400, 2048
_REPEAT_RANGE_DB = 60.0
_CHANGING_DB = 0.5
"""Spread over time of the mel levels below which nothing changes, so that nothing can repeat."""


@dataclasses.dataclass(frozen=True)
class SoundMeasure:
    """What one field of `SoundMeasures` is, for tables and pages."""

    name: str
    label: str
    unit: str
    decimals: int
    meaning: str


@dataclasses.dataclass(frozen=True)
class SoundMeasures:
    """The measures of one clip."""

    duration_s: float
    loudness_lufs: float | None
    """Integrated loudness (ITU-R BS.1770-4); None for silence."""
    peak_dbfs: float | None
    """Highest absolute sample, in dB relative to full scale; None for digital silence."""
    clipped_share: float
    """Share of samples in flat tops at full scale, 0 to 1, as `prepare` measures it."""
    silent_share: float
    """Share of frames of 50 ms below `SILENCE_DBFS`, 0 to 1."""
    bandwidth_hz: float | None
    """Highest frequency whose average level is within `BANDWIDTH_DB` of the loudest one; None for silence."""
    dc_offset: float
    """Largest absolute mean of a channel, 1 is full scale."""
    repetition: float | None
    """Largest correlation of the mel image with itself, from `REPEAT_AFTER_S` to half of the clip later: 1 repeats exactly, 0
    never comes back; None for clips below twice that lag, for silence, and where nothing changes."""


MEASURES = (
    SoundMeasure("loudness_lufs", "loudness", "LUFS", 1, "Integrated loudness. Samplers bring clips to one loudness."),
    SoundMeasure("peak_dbfs", "peak", "dBFS", 1, "The highest sample."),
    SoundMeasure(
        "clipped_share", "clipping", "share of samples", 5,
        f"Samples cut off at full scale; from {CLIPPED_SHARE:g} on it is audible.",
    ),
    SoundMeasure("silent_share", "silence", "share of the clip", 3, f"Frames below {SILENCE_DBFS:g} dBFS."),
    SoundMeasure(
        "bandwidth_hz", "bandwidth", "Hz", 0,
        f"The highest frequency within {-BANDWIDTH_DB:g} dB of the loudest: lower is duller, and a codec sets a limit.",
    ),
    SoundMeasure("dc_offset", "DC offset", "of full scale", 5, "The mean of the samples; music has none."),
    SoundMeasure(
        "repetition", "repetition", "correlation", 3,
        f"How exactly the clip repeats itself after {REPEAT_AFTER_S:g} s or more: 1 is a copy of itself.",
    ),
)  # fmt: skip
"""All measures but the duration, in the order of tables."""


def measure_sound(wav: Wav, rate_hz: int) -> SoundMeasures:
    """Measure one clip.

    Args:
        wav: Sound, (channels, samples), with at least one sample.
        rate_hz: Its sample rate.
    """
    peak = float(np.abs(wav).max())
    loudness = measure_lufs(wav, rate_hz, whole_clip=True)
    return SoundMeasures(
        duration_s=wav.shape[1] / rate_hz,
        loudness_lufs=None if loudness is None else float(loudness),
        peak_dbfs=20 * float(np.log10(peak)) if peak > 0 else None,
        clipped_share=float(clipped_share(wav)),
        silent_share=silent_share(wav, rate_hz),
        bandwidth_hz=measure_bandwidth(wav, rate_hz),
        dc_offset=float(np.abs(wav.mean(axis=1, dtype=np.float64)).max()),
        repetition=measure_repetition(wav, rate_hz),
    )


def silent_share(wav: Wav, rate_hz: int) -> float:
    """Return the share of frames of 50 ms whose level is below `SILENCE_DBFS`, 0 to 1; the last frame may be shorter."""
    power = np.square(wav, dtype=np.float64).mean(axis=0)  # (samples,)
    starts = np.arange(0, len(power), max(1, round(_FRAME_S * rate_hz)))
    lengths = np.diff(starts, append=len(power))
    frames = np.add.reduceat(power, starts) / lengths
    return float(np.average(frames < 10 ** (SILENCE_DBFS / 10), weights=lengths))


def measure_bandwidth(wav: Wav, rate_hz: int) -> float | None:
    """Return the highest frequency that holds energy, in Hz; None for silence.

    The power spectrum is averaged over the clip (Welch 1967, Hann windows of 4096 samples) and smoothed over 200 Hz.
    """
    mono_frames = [_frames(channel, _N_FFT, _N_FFT // 2) for channel in wav]
    window = np.hanning(_N_FFT).astype(np.float32)
    spectrum = np.zeros(_N_FFT // 2 + 1)
    for frames in mono_frames:
        # Without its mean: a DC offset would be the loudest frequency.
        centred = frames - frames.mean(axis=1, keepdims=True)
        spectrum += np.square(np.abs(np.fft.rfft(centred * window))).mean(axis=0)
    bin_hz = rate_hz / _N_FFT
    width = max(1, round(_SMOOTHING_HZ / bin_hz))
    smooth = np.convolve(spectrum, np.ones(width) / width, "same")
    if not smooth.max() > 1e-12:
        return None
    above = np.flatnonzero(smooth >= smooth.max() * 10 ** (BANDWIDTH_DB / 10))
    return float(above[-1] * bin_hz)


def measure_repetition(wav: Wav, rate_hz: int) -> float | None:
    """Return how exactly a clip repeats itself, up to 1; None where that cannot be said (see `SoundMeasures.repetition`).

    The mel image (64 bands, decibels, each band without its mean) is correlated with itself at every lag from
    `REPEAT_AFTER_S` to half of the clip; each lag is normalised by the energies of the two parts that overlap.
    """
    # Level per band and frame, (bands, frames), with what is 60 dB below the loudest cut off.
    mono = resample(wav.mean(axis=0, keepdims=True), rate_hz, _REPEAT_RATE_HZ)[0]
    first = round(REPEAT_AFTER_S * _REPEAT_RATE_HZ / _REPEAT_HOP)
    if len(mono) < 2 * first * _REPEAT_HOP:
        return None
    frames = _frames(mono, _REPEAT_FFT, _REPEAT_HOP) * np.hanning(_REPEAT_FFT).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(frames))) @ _mel_filters()  # (frames, bands)
    if not power.max() > 1e-12:
        return None
    levels = 10 * np.log10(np.maximum(power, power.max() * 10 ** (-_REPEAT_RANGE_DB / 10))).T
    levels = levels - levels.mean(axis=1, keepdims=True)
    if levels.std() < _CHANGING_DB:
        return None
    # Correlations of all lags at once, by the theorem of Wiener and Khinchin, summed over the bands.
    count = levels.shape[1]
    spectra = np.fft.rfft(levels, 2 * count)
    products = np.fft.irfft((np.abs(spectra) ** 2).sum(axis=0))[:count]
    energy = np.concatenate([[0.0], np.cumsum(np.square(levels).sum(axis=0))])
    lags = np.arange(first, count // 2 + 1)
    norms = np.sqrt(energy[count - lags] * (energy[count] - energy[lags]))
    return float(min(1.0, (products[lags] / np.maximum(norms, 1e-9)).max())) if len(lags) else None


def _frames(samples: Wav, size: int, hop: int) -> Wav:
    """Return the whole frames of (samples,), (frames, size); a sound shorter than one frame is padded with silence.

    A frame that runs over the end is left out: the edge there would put energy at every frequency.
    """
    padded = np.pad(samples, (0, max(0, size - len(samples))))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]


def _mel_filters() -> npt.NDArray[np.float32]:
    """Return the mel filters of the repetition, (bins, bands)."""
    top_hz = _REPEAT_RATE_HZ / 2
    return mel_filter_bank(_REPEAT_FFT, _REPEAT_RATE_HZ, _REPEAT_BANDS, 40.0, top_hz, HTK_CORNER_HZ).numpy()


def sound_warnings(measures: Sequence[SoundMeasures], shortest_s: float) -> list[str]:
    """Return what a user should know about the sounds as a whole, one line each.

    Args:
        measures: Of every clip.
        shortest_s: The length that the embedder needs.
    """
    counts = (
        (sum(one.loudness_lufs is None for one in measures), "silent; they count as they are"),
        (
            sum(one.duration_s < shortest_s for one in measures),
            f"shorter than {shortest_s:g} s; the embedder hears them repeated to that length",
        ),
        (
            sum(one.clipped_share >= CLIPPED_SHARE for one in measures),
            f"clipped (at least {CLIPPED_SHARE:g} of their samples are cut off at full scale)",
        ),
    )
    return [f"{count} of {len(measures)} clips are {text}" for count, text in counts if count]


# --- what an embedder hears ------------------------------------------------------------------------------------------

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
    """Reads the clips; of one that cannot be read it says why. May raise `InputError` for all of them."""


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
