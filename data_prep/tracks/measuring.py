"""Measurements of a sound: musical attributes for captions and columns (rough words), clipping, and the hash of its samples."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.captions.tables import Value
from riffusion_train.listening.attributes import RATE_HZ, key_of, magnitudes, middle_mono, separate, tempo_of
from riffusion_train.runtime.errors import InputError

ATTRIBUTES = ("bpm", "key", "loudness", "brightness", "drums")
_LOUDNESS_LUFS = (("quiet", -23.0), ("moderately loud", -13.0), ("loud", np.inf))
"""Names of integrated loudness, with their upper limits."""
_DRUMS_HZ = 6000
_DRUM_SHARE = 0.29
"""Share of percussive energy above `_DRUMS_HZ` from which a track has drums."""
_DRUMS_LEAST_SHARE = 1e-5
"""Share of all energy above `_DRUMS_HZ` below which there is nothing to judge."""
_BRIGHTNESS_HZ = (("dark", 900.0), ("balanced", 2200.0), ("bright", np.inf))
"""Names of the spectral centroid, with their upper limits."""
_FULL_SCALE = 0.97
"""Lower peaks are not clipping: a lossy copy of a clipped track overshoots rather than falls below."""
_SHORTEST_RUN = 3
CLIPPED_SHARE = 1e-4
"""From this share on a track is called clipped: audible, with some flat tops in every second."""


def parse_attributes(text: str | None) -> tuple[str, ...]:
    """Return the attributes that `measure=` names: `bpm,key`, or `all`.

    Raises:
        InputError: If a name is unknown.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    chosen = ATTRIBUTES if names == ["all"] else tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in ATTRIBUTES:
            raise InputError(f"measure={text}: unknown attribute '{name}'; choose from: all, {', '.join(ATTRIBUTES)}")
    return chosen


def measure(
    wav: npt.NDArray[np.float32], rate_hz: int, lufs: float | None, attributes: Sequence[str]
) -> dict[str, Value]:
    """Return attributes of a track by name, without those that cannot be determined.

    Args:
        wav: Sound, shape (channels, samples).
        rate_hz: Its sample rate.
        lufs: Its integrated loudness.
        attributes: Some of `ATTRIBUTES`.
    """
    measured: dict[str, Value] = {}
    if "loudness" in attributes and lufs is not None:
        measured["loudness"] = next(word for word, limit in _LOUDNESS_LUFS if lufs < limit)
    if not set(attributes) - {"loudness"}:
        return measured
    import librosa

    mono = middle_mono(wav, rate_hz)
    spectrum = magnitudes(mono)  # (1025, frames)
    if "bpm" in attributes and (bpm := tempo_of(*separate(spectrum))) is not None:
        measured["bpm"] = bpm
    if "key" in attributes and (key := key_of(mono)) is not None:
        measured["key"] = key
    if "brightness" in attributes:
        weights = spectrum.sum(axis=1)
        centroid_hz = float(
            (weights * librosa.fft_frequencies(sr=RATE_HZ, n_fft=2048)).sum() / max(weights.sum(), 1e-9)
        )
        measured["brightness"] = next(word for word, limit in _BRIGHTNESS_HZ if centroid_hz < limit)
    if "drums" in attributes:
        measured["drums"] = has_drums(mono)
    return measured


def has_drums(mono: npt.NDArray[np.float32]) -> bool:
    """Return whether a track has drums: much of its sound above 6 kHz, where cymbals and snares are, is percussive.

    The percussive share is that of median filtering (Fitzgerald, "Harmonic/Percussive Separation Using Median Filtering",
    2010). Its limit lies between eight songs of two bands and their guitar tracks alone. Of 96 composed clips with known drums
    it is right for 87, and it hears the drums that the prompts of 28 generated tracks asked for in all of them.

    Args:
        mono: Sound at `RATE_HZ`, shape (samples,).
    """
    import librosa
    from librosa.decompose import hpss

    spectrum = np.abs(librosa.stft(mono, n_fft=1024, hop_length=256))
    _, percussive = hpss(spectrum)
    above = slice(round(_DRUMS_HZ * 1024 / RATE_HZ), None)
    whole = float((spectrum[above] ** 2).sum())
    if whole <= _DRUMS_LEAST_SHARE * float((spectrum**2).sum()):
        return False
    return float((percussive[above] ** 2).sum()) > _DRUM_SHARE * whole


class Extremes(NamedTuple):
    """The highest and the lowest sample of each channel, shape (channels,); NaN if any sample is NaN."""

    highest: npt.NDArray[np.float32]
    lowest: npt.NDArray[np.float32]

    @property
    def finite(self) -> bool:
        """Whether every sample is a finite number."""
        return bool(np.isfinite(self).all())

    @property
    def silent(self) -> bool:
        """Whether every sample is zero."""
        return not np.any(self)


def find_extremes(wav: npt.NDArray[np.float32]) -> Extremes:
    """Return the extremes of a sound with at least one sample, shape (channels, samples)."""
    return Extremes(wav.max(axis=1), wav.min(axis=1))


def clipped_share(wav: npt.NDArray[np.float32], extremes: Extremes | None = None) -> float:
    """Return the share of samples that lie in flat tops: runs of three or more at the highest or lowest value.

    Args:
        wav: Sound, shape (channels, samples).
        extremes: Its extremes, if they are known already.
    """
    clipped = 0
    for channel, top, bottom in zip(wav, *(extremes or find_extremes(wav)), strict=True):
        highest, lowest = float(top), float(bottom)
        if highest >= _FULL_SCALE:
            clipped += _in_runs(channel >= 0.9999 * highest)
        if lowest <= -_FULL_SCALE:
            clipped += _in_runs(channel <= 0.9999 * lowest)
    return clipped / wav.size


def pcm_hash(wav: npt.NDArray[np.float32], rate_hz: int) -> str:
    """Return a hash of the decoded samples, 32 hex digits: it does not depend on the file's format or tags."""
    import xxhash

    digest = xxhash.xxh3_128(f"{rate_hz} {wav.shape}".encode())
    digest.update(np.ascontiguousarray(wav).data)
    return digest.hexdigest()


def _in_runs(flags: npt.NDArray[np.bool_]) -> int:
    """Return how many flags lie in runs of at least `_SHORTEST_RUN`."""
    positions = np.flatnonzero(flags)
    begins = np.flatnonzero(
        np.diff(positions, prepend=-2) != 1
    )  # a run begins where the position before is not flagged
    lengths = np.diff(begins, append=len(positions))
    return int(lengths[lengths >= _SHORTEST_RUN].sum())
