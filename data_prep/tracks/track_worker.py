"""One track from file to slices: hash, decode, resample, measure, bring to one loudness, cut, encode, keep."""

import contextlib
import dataclasses
import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.captions.sidecars import read_tags
from data_prep.inputs.fetch import open_input, origin_of
from data_prep.output.track_store import Slice, TrackResult, kept_path, note_origin, read_facts, read_origin, write_kept
from data_prep.tracks.fingerprint import fingerprint_words, to_text
from data_prep.tracks.measuring import clipped_share, find_extremes, measure, pcm_hash
from data_prep.tracks.windows import (
    Window,
    aligned_windows,
    find_beats,
    fixed_windows,
    overlap_back,
    random_windows,
    sounding_stretches,
    spread,
)
from riffusion_train.audio.codec.image_file import png_bytes
from riffusion_train.audio.io.loudness import gain_db, measure_lufs, rms_dbfs
from riffusion_train.audio.io.read import decode_audio, decoding_problems, resample
from riffusion_train.config.prepare import Tail, Windows
from riffusion_train.config.spectrogram import Channels, SpectrogramConfig
from riffusion_train.runtime.errors import InputError

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Errors of the place that is written to: no fault of a track, so they end the run."""


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
    """Whether to take an acoustic fingerprint."""
    windows: Windows = Windows.fixed
    tail: Tail = Tail.pad
    skip_silence: bool = False
    random_crops: int = 0
    most_slices: int | None = None
    seed: int = 0
    """Decides where random crops lie."""
    remove_dc: bool = False
    """Whether to take out a constant offset."""


@dataclasses.dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs once."""

    cut: CutParameters
    kept_dir: str
    key: str
    """Hash of the cutting parameters."""


class TrackWorker:
    """Turns audio files into kept slices. It holds one codec for all of them."""

    def __init__(self, cut: CutParameters, kept_dir: Path, key: str) -> None:
        from riffusion_train.audio.codec.codec import make_codec  # here, so that only workers load torch

        self._codec = make_codec(cut.spectrogram)
        self._cut = cut
        self._kept_dir = kept_dir
        self._key = key

    def __call__(self, locator: str) -> TrackResult:
        """Return what became of an audio file; what is kept already is not decoded again.

        Args:
            locator: What a `Track` bears.

        Raises:
            OSError: If the slices cannot be written.
        """
        origin = origin_of(locator)
        before = read_origin(self._kept_dir, origin) if origin else None
        kept = read_facts(kept_path(self._kept_dir, before, self._key)) if before else None
        if kept is not None:  # it need not even be fetched
            return dataclasses.replace(kept, origin=origin, reused=True)
        try:
            with open_input(locator) as path:
                facts = self._work(path)
        except InputError as error:
            return TrackResult("", reason="unreadable", detail=str(error))
        if origin and facts.file_hash:
            note_origin(self._kept_dir, origin, facts.file_hash)
        return dataclasses.replace(facts, origin=origin)

    def _work(self, path: Path) -> TrackResult:
        try:
            with path.open("rb") as file:
                file_hash = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
        except OSError as error:
            return TrackResult("", reason="unreadable", detail=error.strerror or str(error))
        kept = kept_path(self._kept_dir, file_hash, self._key)
        facts = read_facts(kept)
        if facts is not None:
            return dataclasses.replace(facts, reused=True)
        try:
            facts, slices = self._cut_track(path, TrackResult(file_hash))
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise
            return TrackResult(file_hash, reason="unreadable", detail=error.strerror or str(error))
        except Exception as error:
            # One odd file must not cost the run; it is counted and listed, and tried again next time.
            return TrackResult(file_hash, reason="fault", detail=" ".join(f"{type(error).__name__}: {error}".split()))
        write_kept(kept, facts, slices)
        return facts

    def _cut_track(self, path: Path, facts: TrackResult) -> tuple[TrackResult, list[Slice]]:
        try:
            decoded = decode_audio(path)
        except InputError as error:
            detail = " ".join(str(error).removeprefix(f"{path}: ").split())
            return dataclasses.replace(facts, reason="unreadable", detail=detail), []
        wav, rate_hz = decoded.wav, decoded.rate_hz
        if wav.shape[1] == 0:
            return dataclasses.replace(facts, reason="no samples", detail="it has a head and no audio samples"), []
        extremes = find_extremes(wav)
        if not extremes.finite:
            return dataclasses.replace(facts, reason="not numbers", detail="it holds samples that are not numbers"), []
        facts = dataclasses.replace(
            facts,
            duration_s=decoded.duration_s,
            rate_hz=rate_hz,
            channels=int(wav.shape[0]),
            container=decoded.container,
            warnings=decoding_problems(decoded),
            pcm_hash=pcm_hash(wav, rate_hz),
            clipped_share=clipped_share(wav, extremes),
        )
        if extremes.silent:
            return dataclasses.replace(facts, reason="silent", detail="every sample is zero"), []
        if self._cut.remove_dc:
            wav = wav - wav.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        if self._cut.acoustic:
            facts = dataclasses.replace(facts, acoustic=to_text(fingerprint_words(wav, rate_hz)))
        wav = resample(mixed_for(self._cut.spectrogram.channels, wav), rate_hz, self._codec.rate_hz)
        # Measured on the whole track, with the codec's channels and rate: what the model hears, and no quiet passage is
        # blown up.
        lufs = measure_lufs(wav, self._codec.rate_hz)
        gain = gain_db(wav, lufs, self._cut.target_lufs, self._cut.peak_ceiling_dbfs)
        facts = dataclasses.replace(facts, lufs=lufs, gain_db=gain)
        if self._cut.tags:
            facts = dataclasses.replace(facts, tags=read_tags(path))
        if self._cut.measure:
            found = measure(wav, self._codec.rate_hz, lufs, self._cut.measure)
            facts = dataclasses.replace(facts, measured=found)
        wav *= np.float32(10 ** (gain / 20))
        slices, silent = self._slices(wav, facts.file_hash)
        facts = dataclasses.replace(
            facts, slices=len(slices), slices_s=float(sum(item.duration_s for item in slices)), silent_slices=silent
        )
        return (facts, slices) if slices else (self._without_slices(facts), [])

    def _windows(self, wav: npt.NDArray[np.float32], file_hash: str) -> list[Window]:
        """Return where the windows of a track lie, in order."""
        cut, clip, rate_hz = self._cut, self._codec.clip_samples, self._codec.rate_hz
        shortest = min(clip, round(cut.shortest_s * rate_hz))
        stride = max(1, round(cut.stride_s * rate_hz))
        stretches = [Window(0, wav.shape[1])]
        if cut.skip_silence:
            stretches = sounding_stretches(wav, rate_hz, cut.silence_dbfs)
        points = [] if cut.windows is Windows.fixed else find_beats(wav, rate_hz, cut.windows is Windows.bars)
        windows: list[Window] = []
        for start, length in stretches:
            if cut.windows is not Windows.fixed:
                inside = [point - start for point in points if start <= point < start + length]
                found = aligned_windows(inside, length, clip, stride)
            else:
                found = fixed_windows(length, clip, stride, shortest)
            if cut.tail is Tail.overlap and cut.windows is Windows.fixed:
                found = overlap_back(found, length, clip)
            windows += [Window(start + window.start, window.length) for window in found]
        more = random_windows(wav.shape[1], clip, cut.random_crops, f"{cut.seed} {file_hash}")
        return spread(sorted({*windows, *more}), cut.most_slices)

    def _slices(self, wav: npt.NDArray[np.float32], file_hash: str) -> tuple[list[Slice], int]:
        """Encode every window that is not silent. Returns the slices and the number of silent windows."""
        clip, rate_hz = self._codec.clip_samples, self._codec.rate_hz
        slices, silent = [], 0
        for start, length in self._windows(wav, file_hash):
            window = wav[:, start : start + length]
            if rms_dbfs(window) < self._cut.silence_dbfs:
                silent += 1
                continue
            if length < clip:
                window = np.pad(window, ((0, 0), (0, clip - length)))
            encoded = self._codec.encode(window)
            png = png_bytes(encoded.image)
            slices.append(Slice(png, start / rate_hz, length / rate_hz, float(encoded.max_value)))
        return slices, silent

    def _without_slices(self, facts: TrackResult) -> TrackResult:
        if facts.silent_slices:
            detail = f"every window lies below silence_dbfs={self._cut.silence_dbfs:g}"
            return dataclasses.replace(facts, reason="silent", detail=detail)
        duration_s = facts.duration_s or 0.0
        if duration_s >= self._cut.shortest_s:  # so it is the kind of windows that found nothing
            detail = (
                f"no window of windows={self._cut.windows.value} skip_silence={self._cut.skip_silence} fits into it"
            )
            return dataclasses.replace(facts, reason="no window", detail=detail.lower())
        detail = f"{duration_s:.2f} s is below {self._cut.shortest_s:.2f} s; tail=pad min_clip_s=… keeps shorter files"
        return dataclasses.replace(facts, reason="too short", detail=detail)


def make_track_worker(setup: WorkerSetup) -> TrackWorker:
    """Build the worker that a process runs."""
    return TrackWorker(setup.cut, Path(setup.kept_dir), setup.key)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread meanwhile, as the worker processes do: the order of sums decides the last bit of a pixel."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def mixed_for(channels: Channels, wav: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return (channels, samples) with no more channels than the pictures hold: one, or two.

    More than two are always mixed down to one: which speaker each belongs to is not known for every format.
    """
    if wav.shape[0] == 1 or (wav.shape[0] == 2 and channels is not Channels.mono):
        return wav
    if wav.shape[0] == 2:  # as the mean, in a quarter of the time
        mixed = wav[:1] + wav[1:]
        mixed *= np.float32(0.5)
        return mixed
    return wav.mean(axis=0, keepdims=True, dtype=np.float32)
