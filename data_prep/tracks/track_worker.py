"""One track from the file to its slices: hash, decode, resample, measure, apply the gain, cut, encode, store."""

import contextlib
import dataclasses
import enum
import errno
import functools
import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.inputs.sources import read_tags
from data_prep.inputs.storage import open_input, origin_of
from data_prep.tracks.measuring import (
    EVIDENCE,
    FINGERPRINTED_S,
    HEARD_ATTRIBUTES,
    MEASURED_S,
    TrackListener,
    fingerprint_words,
    measure,
    parse_attributes,
    pcm_hash,
    to_text,
)
from data_prep.tracks.track_store import Slice, SliceSpool, TrackResult, TrackStore
from data_prep.tracks.windows import (
    Window,
    aligned_windows,
    find_beats_of,
    fixed_windows,
    overlap_back,
    random_windows,
    sounding_stretches,
    spread,
)
from riffusion_train.audio.loudness import (
    GRID_S,
    gain_of_extremes,
    rms_dbfs,
    stream_clipped_share,
    stream_extremes,
    stream_lufs,
)
from riffusion_train.audio.read import DecodedAudio, Samples, decode_audio, decoding_problems, resample_blocks
from riffusion_train.config.prepare import CaptionSource, Duplicates, PrepareConfig, Tail, Windows
from riffusion_train.config.spectrogram import Channels, SpectrogramConfig, to_data
from riffusion_train.listening.attributes import LONGEST_S
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.progress import report_share

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Errors of the disk that is written to. They are not the fault of a track, so they end the run."""
_METERED_S = 300 * GRID_S
_REPORTED_WINDOWS = 100
"""Progress inside a track is reported so often: every ten minutes of sound, or so."""


@dataclasses.dataclass(frozen=True)
class CutParameters:
    """Everything that decides what the slices of a given audio file are."""

    spectrogram: SpectrogramConfig
    stride_s: float
    shortest_s: float
    silence_dbfs: float
    target_lufs: float | None
    peak_ceiling_dbfs: float
    measure: tuple[str, ...] = ()
    """Attributes to measure."""
    tags: bool = False
    """Whether to read the file's tags."""
    acoustic: bool = False
    """Whether to compute an acoustic fingerprint."""
    windows: Windows = Windows.fixed
    tail: Tail = Tail.pad
    skip_silence: bool = False
    random_crops: int = 0
    most_slices: int | None = None
    seed: int = 0
    """Decides the positions of random crops."""
    remove_dc: bool = False
    """Whether to remove a constant offset."""
    listen_patches: int = PrepareConfig.listen_patches
    """Most patches that are heard of a track whose captions need it."""

    @classmethod
    def from_config(cls, config: PrepareConfig) -> Self:
        """Return the cutting parameters of a config.

        Raises:
            InputError: If `measure` names an unknown attribute.
        """
        return cls(
            spectrogram=config.spectrogram,
            stride_s=config.clip_stride_s,
            shortest_s=config.shortest_clip_s,
            silence_dbfs=config.silence_dbfs,
            target_lufs=config.target_lufs,
            peak_ceiling_dbfs=config.peak_ceiling_dbfs,
            measure=parse_attributes(config.measure),
            tags=config.captions is CaptionSource.tags,
            acoustic=config.near_duplicates is not Duplicates.off,
            windows=config.windows,
            tail=config.tail,
            skip_silence=config.skip_silence,
            random_crops=config.random_crops,
            most_slices=config.max_slices_per_track,
            seed=config.seed if config.random_crops else 0,
            remove_dc=config.remove_dc,
            listen_patches=config.listen_patches,
        )

    def as_data(self) -> dict[str, Any]:
        """Return the parameters as JSON-ready data."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {name: value.value if isinstance(value, enum.Enum) else value for name, value in values.items()}
        if self.listen_patches == PrepareConfig.listen_patches:
            del plain["listen_patches"]  # as in versions that did not listen, whose slices are still of use
        return plain | {"spectrogram": to_data(self.spectrogram)}

    @property
    def key(self) -> str:
        """A short hash of the parameters: the key of the track store."""
        return hashlib.sha256(json.dumps(self.as_data(), sort_keys=True).encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class WorkerSetup:
    """What each worker process receives once."""

    cut: CutParameters
    store: TrackStore
    to_hear: frozenset[str] = frozenset()
    """Locators of the tracks whose captions need that they are heard."""
    checks: bool = False
    """Whether captions are checked, for which evidence is gathered in each track that is heard."""


class TrackWorker:
    """Turns audio files into stored slices, with one codec for all of them.

    Args:
        cut: The cutting parameters.
        store: Where results and slices go.
        to_hear: Locators of the tracks to hear.
        checks: Whether to gather evidence in them.
    """

    def __init__(
        self, cut: CutParameters, store: TrackStore, to_hear: Collection[str] = (), *, checks: bool = False
    ) -> None:
        # Imported here, so that only workers load torch.
        from riffusion_train.audio.codec import make_codec
        from riffusion_train.audio.image_file import png_bytes

        self._codec, self._png_bytes = make_codec(cut.spectrogram), png_bytes
        self._cut = cut
        self._store = store
        self._to_hear = to_hear
        self._heard_attributes = (*HEARD_ATTRIBUTES, EVIDENCE) if checks else HEARD_ATTRIBUTES
        self._listener: TrackListener | None = None

    def __call__(self, locator: str) -> TrackResult:
        """Return the result of an audio file; one that is stored already is not decoded again.

        Args:
            locator: The `locator` of a `Track`.

        Raises:
            OSError: If the slices cannot be written.
        """
        hears = locator in self._to_hear
        origin = origin_of(locator)
        known_hash = self._store.read_origin(origin) if origin else None
        stored = self._store.read(known_hash) if known_hash else None
        if stored is not None and self._is_whole(
            stored, hears
        ):  # a remote file that has not changed need not be fetched
            return dataclasses.replace(stored, origin=origin, reused=True)
        try:
            with open_input(locator) as path:
                result = self._process_file(path, hears)
        except InputError as error:
            return TrackResult("", reason="unreadable", detail=str(error))
        if origin and result.file_hash:
            self._store.write_origin(origin, result.file_hash)
        return dataclasses.replace(result, origin=origin)

    def _is_whole(self, stored: TrackResult, hears: bool) -> bool:
        """Whether a stored result holds all that is needed now; one that was not heard, for another run, may not."""
        if not hears or stored.reason is not None:
            return True
        return stored.heard is not None and (EVIDENCE not in self._heard_attributes or bool(stored.heard.get(EVIDENCE)))

    def _process_file(self, path: Path, hears: bool) -> TrackResult:
        """Return the result of a local file, from the store or made now."""
        try:
            with path.open("rb") as file:
                file_hash = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
        except OSError as error:
            return TrackResult("", reason="unreadable", detail=error.strerror or str(error))
        stored = self._store.read(file_hash)
        if stored is not None and self._is_whole(stored, hears):
            return dataclasses.replace(stored, reused=True)
        try:
            result, slices = self._cut_track(path, TrackResult(file_hash), hears)
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise
            return TrackResult(file_hash, reason="unreadable", detail=error.strerror or str(error))
        except Exception as error:
            # One odd file must not end the run. It is counted, listed and not stored, so the next run tries it again.
            return TrackResult(file_hash, reason="fault", detail=" ".join(f"{type(error).__name__}: {error}".split()))
        self._store.write(result, slices)
        return result

    def _cut_track(self, path: Path, result: TrackResult, hears: bool) -> tuple[TrackResult, Iterable[Slice]]:
        """Decode, measure, cut and, if asked to, hear a file. Returns the completed result, and the slices in order."""
        try:
            decoded = decode_audio(path, self._store.scratch)
        except InputError as error:
            detail = " ".join(str(error).removeprefix(f"{path}: ").split())
            return dataclasses.replace(result, reason="unreadable", detail=detail), []
        samples, rate_hz = decoded.samples, decoded.rate_hz
        if samples.length == 0:
            return dataclasses.replace(result, reason="no samples", detail="it has a head and no audio samples"), []
        extremes = stream_extremes(samples.blocks())
        if not extremes.finite:
            detail = "it holds samples that are not numbers"
            return dataclasses.replace(result, reason="not numbers", detail=detail), []
        result = dataclasses.replace(
            result,
            duration_s=decoded.duration_s,
            rate_hz=rate_hz,
            channels=samples.channels,
            container=decoded.container,
            warnings=decoding_problems(decoded),
            pcm_hash=pcm_hash(samples, rate_hz),
            clipped_share=stream_clipped_share(samples.blocks(), extremes),
        )
        if extremes.silent:
            return dataclasses.replace(result, reason="silent", detail="every sample is zero"), []
        offset = _offset(samples) if self._cut.remove_dc else np.float32(0)
        if self._cut.acoustic:
            beginning = samples.read(0, round(FINGERPRINTED_S * rate_hz)) - offset
            result = dataclasses.replace(result, acoustic=to_text(fingerprint_words(beginning, rate_hz)))
        mixed, problem = self._mixed(decoded, offset)
        if problem is not None:
            result = dataclasses.replace(result, warnings=result.warnings | {"channels cancel": problem})
        del decoded, samples  # the sound as the images hold it is all that is needed from here on
        return self._cut_mixed(path, result, mixed, hears)

    def _mixed(self, decoded: DecodedAudio, offset: Any) -> tuple[Samples, str | None]:
        """Return a sound with the codec's channels and rate, and what is wrong with its mix; None if nothing is."""
        samples, rate_hz = decoded.samples, self._codec.rate_hz
        blocks = functools.partial(_without_offset, samples, offset)
        mix, problem = choose_mix(self._cut.spectrogram.channels, blocks(), samples.channels)
        channels = mix(samples.read(0, 1)).shape[0]
        mixed = Samples(channels, -(-samples.length * rate_hz // decoded.rate_hz) + 1, self._store.scratch)
        for block in resample_blocks(map(mix, blocks()), channels, decoded.rate_hz, rate_hz):
            mixed.append(block)
        return mixed, problem

    def _cut_mixed(
        self, path: Path, result: TrackResult, mixed: Samples, hears: bool
    ) -> tuple[TrackResult, Iterable[Slice]]:
        """Measure, cut and, if asked to, hear a sound of the codec's channels and rate; see `_cut_track`."""
        # Loudness is measured on the whole track, so that no quiet passage is blown up, and with the codec's channels and
        # rate, since that is what the model hears.
        rate_hz = self._codec.rate_hz
        lufs = stream_lufs(mixed.blocks(round(_METERED_S * rate_hz)), mixed.channels, rate_hz)
        extremes = stream_extremes(mixed.blocks())
        gain = gain_of_extremes(extremes, lufs, self._cut.target_lufs, self._cut.peak_ceiling_dbfs)
        result = dataclasses.replace(result, lufs=lufs, gain_db=gain)
        if self._cut.tags:
            result = dataclasses.replace(result, tags=read_tags(path))
        attributes = {*self._cut.measure, *(self._heard_attributes if hears else ())}
        measured_s = LONGEST_S if self._cut.measure or EVIDENCE in attributes else MEASURED_S
        spare = max(0, mixed.length - round(measured_s * rate_hz))
        middle = mixed.read(spare // 2, mixed.length - (spare - spare // 2))
        measured = measure(middle, rate_hz, lufs, attributes, measured_s)
        result = dataclasses.replace(result, measured=measured.columns(self._cut.measure))
        mixed.scale(np.float32(10 ** (gain / 20)))
        slices, silent = self._encode_windows(mixed, result.file_hash)
        if hears and slices:
            self._listener = self._listener or TrackListener(self._cut.listen_patches)
            heard = self._listener.hear(mixed, rate_hz, measured, lufs, gain, slices.times_s)
            result = dataclasses.replace(result, heard=heard.as_data())
        slices_s = float(sum(duration_s for _, duration_s in slices.times_s))
        result = dataclasses.replace(result, slices=len(slices), slices_s=slices_s, silent_slices=silent)
        return (result, slices) if slices else (self._reject_without_slices(result), [])

    def _windows(self, samples: Samples, file_hash: str) -> list[Window]:
        """Return the windows of a track in order."""
        cut, clip, rate_hz = self._cut, self._codec.clip_samples, self._codec.rate_hz
        shortest = min(clip, round(cut.shortest_s * rate_hz))
        stride = max(1, round(cut.stride_s * rate_hz))
        stretches = [Window(0, samples.length)]
        if cut.skip_silence:
            stretches = sounding_stretches(samples, rate_hz, cut.silence_dbfs)
        points = [] if cut.windows is Windows.fixed else find_beats_of(samples, rate_hz, cut.windows is Windows.bars)
        windows: list[Window] = []
        for start, length in stretches:
            if cut.windows is not Windows.fixed:
                inside = [point - start for point in points if start <= point < start + length]
                laid = aligned_windows(inside, length, clip, stride)
            else:
                laid = fixed_windows(length, clip, stride, shortest)
            if cut.tail is Tail.overlap and cut.windows is Windows.fixed:
                laid = overlap_back(laid, length, clip)
            windows += [Window(start + window.start, window.length) for window in laid]
        crops = random_windows(samples.length, clip, cut.random_crops, f"{cut.seed} {file_hash}")
        return spread(sorted({*windows, *crops}), cut.most_slices)

    def _encode_windows(self, samples: Samples, file_hash: str) -> tuple[SliceSpool, int]:
        """Encode every window that is not silent. Returns the slices and the number of silent windows."""
        clip, rate_hz = self._codec.clip_samples, self._codec.rate_hz
        slices, silent = SliceSpool(self._store.scratch), 0
        windows = self._windows(samples, file_hash)
        for number, (start, length) in enumerate(windows):
            if number % _REPORTED_WINDOWS == _REPORTED_WINDOWS - 1:
                report_share(number / len(windows))
            window = samples.read(start, start + length)
            if rms_dbfs(window) < self._cut.silence_dbfs:
                silent += 1
                continue
            if length < clip:
                window = np.pad(window, ((0, 0), (0, clip - length)))
            encoded = self._codec.encode(window)
            png = self._png_bytes(encoded.image)
            slices.append(Slice(png, start / rate_hz, length / rate_hz, float(encoded.max_value)))
        return slices, silent

    def _reject_without_slices(self, result: TrackResult) -> TrackResult:
        """Return the result with the reason why no window became a slice."""
        if result.silent_slices:
            detail = f"every window lies below silence_dbfs={self._cut.silence_dbfs:g}"
            return dataclasses.replace(result, reason="silent", detail=detail)
        duration_s = result.duration_s or 0.0
        if duration_s >= self._cut.shortest_s:  # long enough, so there were no beats or no sounding stretches
            detail = (
                f"no window of windows={self._cut.windows.value} skip_silence={self._cut.skip_silence} fits into it"
            )
            return dataclasses.replace(result, reason="no window", detail=detail.lower())
        detail = f"{duration_s:.2f} s is below {self._cut.shortest_s:.2f} s; tail=pad min_clip_s=… keeps shorter files"
        return dataclasses.replace(result, reason="too short", detail=detail)


def make_track_worker(setup: WorkerSetup) -> TrackWorker:
    """Build the worker of a process."""
    return TrackWorker(setup.cut, setup.store, setup.to_hear, checks=setup.checks)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, as the worker processes do: the order of sums decides the last bit of a pixel."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def mix_channels(channels: Channels, wav: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a sound with no more channels than the images hold: one or two; shape (channels, samples).

    More than two channels are always mixed down to one, since not every format says which speaker each belongs to.

    Args:
        channels: Channels of the images.
        wav: Sound, shape (channels, samples).
    """
    if wav.shape[0] == 1 or (wav.shape[0] == 2 and channels is not Channels.mono):
        return wav
    if wav.shape[0] == 2:  # the mean, in a quarter of the time that NumPy's mean takes
        mixed = wav[:1] + wav[1:]
        mixed *= np.float32(0.5)
        return mixed
    return wav.mean(axis=0, keepdims=True, dtype=np.float32)


_THINNED_DB, _CANCELLED_DB = 9.0, 40.0
"""Losses of a mix, beyond that of channels that have nothing in common, from which it is warned of, and not used."""


def choose_mix(
    channels: Channels, blocks: Iterable[npt.NDArray[np.float32]], num_channels: int
) -> tuple[Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]], str | None]:
    """Return what mixes a block of a sound to the channels of the images, and what is wrong with the mix; None if nothing is.

    Channels of opposite phase, which a wrongly wired cable makes, cancel in a mono mix. One of them alone is the sound then.

    Args:
        channels: Channels of the images.
        blocks: The sound, (channels, samples) each; looked at only if it is mixed.
        num_channels: Its number of channels.
    """
    mix = functools.partial(mix_channels, channels)
    if mix(np.zeros((num_channels, 1), np.float32)).shape[0] == num_channels:
        return mix, None
    energies, mixed_energy = np.zeros(num_channels), 0.0
    for block in blocks:
        energies += [float(np.dot(channel, channel)) for channel in block]
        mixed = mix(block)[0]
        mixed_energy += float(np.dot(mixed, mixed))
    # n channels with nothing in common have n times the energy of their mean, which is no loss.
    expected = float(energies.sum()) / num_channels**2
    lost_db = 10 * math.log10(max(expected, 1e-30) / max(mixed_energy, 1e-30))
    if lost_db < _THINNED_DB:
        return mix, None
    fix = "invert one channel, or use spectrogram=hifi_stereo"
    if lost_db < _CANCELLED_DB:
        return mix, f"its channels largely cancel each other in the mono mix; {fix}"
    loudest = int(np.argmax(energies))
    return (
        lambda block: block[[loudest]],
        f"its channels cancel each other in a mono mix, so channel {loudest + 1} alone is used; {fix}",
    )


def _offset(samples: Samples) -> npt.NDArray[np.float32]:
    """Return the mean of each channel, (channels, 1)."""
    sums = [block.sum(axis=1, keepdims=True, dtype=np.float64) for block in samples.blocks()]
    return (np.sum(sums, axis=0) / samples.length).astype(np.float32)


def _without_offset(samples: Samples, offset: Any) -> Iterator[npt.NDArray[np.float32]]:
    for block in samples.blocks():
        yield block - offset if np.any(offset) else block
