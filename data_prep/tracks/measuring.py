"""Measurements of a sound: musical attributes for captions and columns (rough words), and the hash of its samples."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.captions.tables import Value
from riffusion_train.listening.attributes import (
    LONGEST_S,
    RATE_HZ,
    best_key,
    chroma_of,
    magnitudes,
    middle_mono,
    separate,
    tempo_of,
)
from riffusion_train.listening.evidence import Evidence, gather_evidence
from riffusion_train.runtime.errors import InputError

ATTRIBUTES = ("bpm", "key", "loudness", "brightness", "drums")
EVIDENCE = "evidence"
"""What `measure` gathers beside these attributes, for the check of captions."""
_LOUDNESS_LUFS = (("quiet", -23.0), ("moderately loud", -13.0), ("loud", np.inf))
"""Names of integrated loudness, with their upper limits."""
_DRUMS_HZ = 6000
_DRUM_SHARE = 0.29
"""Share of percussive energy above `_DRUMS_HZ` from which a track has drums."""
_DRUMS_LEAST_SHARE = 1e-5
"""Share of all energy above `_DRUMS_HZ` below which there is nothing to judge."""
_BRIGHTNESS_HZ = (("dark", 900.0), ("balanced", 2200.0), ("bright", np.inf))
"""Names of the spectral centroid, with their upper limits."""


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


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured in a track; None is what was not asked for, or cannot be determined."""

    bpm: float | None = None
    bpm_strength: float = 0.0
    """How regular the onsets are, see `attributes.tempo_of`."""
    key: str | None = None
    key_strength: float = 0.0
    """How well the key fits, see `attributes.key_of`."""
    loudness: str | None = None
    brightness_hz: float | None = None
    """Spectral centroid."""
    brightness: str | None = None
    drums: bool | None = None
    evidence: Evidence | None = None

    def columns(self, attributes: Sequence[str]) -> dict[str, Value]:
        """Return those of `ATTRIBUTES` that are named, by name, without those that are None."""
        values = {name: getattr(self, name) for name in ATTRIBUTES if name in attributes}
        return {name: value for name, value in values.items() if value is not None}


def measure(
    wav: npt.NDArray[np.float32],
    rate_hz: int,
    lufs: float | None,
    attributes: Collection[str],
    longest_s: float = LONGEST_S,
) -> Measured:
    """Measure attributes of a track.

    Args:
        wav: Sound, shape (channels, samples).
        rate_hz: Its sample rate.
        lufs: Its integrated loudness.
        attributes: Some of `ATTRIBUTES`, and `EVIDENCE`.
        longest_s: How much is measured of it, from its middle.
    """
    measured = Measured()
    if "loudness" in attributes and lufs is not None:
        measured = Measured(loudness=next(word for word, limit in _LOUDNESS_LUFS if lufs < limit))
    if not set(attributes) - {"loudness"}:
        return measured
    import librosa

    mono = middle_mono(wav, rate_hz, longest_s)
    spectrum = magnitudes(mono)  # (1025, frames)
    found: dict[str, Any] = {}
    if "bpm" in attributes:
        found["bpm"], found["bpm_strength"] = tempo_of(*separate(spectrum))
    chroma = chroma_of(mono) if {"key", EVIDENCE}.intersection(attributes) else np.zeros(12)  # (12,)
    if "key" in attributes:
        found["key"], found["key_strength"] = best_key(chroma)
    if EVIDENCE in attributes:
        found["evidence"] = gather_evidence(mono, chroma)
    if "brightness" in attributes:
        weights = spectrum.sum(axis=1)
        frequencies_hz = librosa.fft_frequencies(sr=RATE_HZ, n_fft=2048)
        centroid_hz = float((weights * frequencies_hz).sum() / max(weights.sum(), 1e-9))
        found["brightness_hz"] = centroid_hz
        found["brightness"] = next(word for word, limit in _BRIGHTNESS_HZ if centroid_hz < limit)
    if "drums" in attributes:
        found["drums"] = has_drums(mono)
    return dataclasses.replace(measured, **found)


def has_drums(mono: npt.NDArray[np.float32]) -> bool:
    """Return whether a track has drums: much of its sound above 6 kHz, where cymbals and snares are, is percussive.

    The percussive share is that of median filtering (Fitzgerald, "Harmonic/Percussive Separation Using Median Filtering",
    2010). Its limit lies between eight songs of two bands and their guitar tracks alone. Of 96 composed clips with known drums
    it is right for 87, and it hears the drums that the prompts of 28 generated tracks asked for in all of them.

    Args:
        mono: Sound at `RATE_HZ`, shape (samples,).
    """
    import librosa

    spectrum = np.abs(librosa.stft(mono, n_fft=1024, hop_length=256))
    first = round(_DRUMS_HZ * 1024 / RATE_HZ)
    whole = float((spectrum[first:] ** 2).sum())
    if whole <= _DRUMS_LEAST_SHARE * float((spectrum**2).sum()):
        return False
    margin = 32  # bins below that the medians of those above reach into
    _, percussive = separate(spectrum[first - margin :])
    return float((percussive[margin:] ** 2).sum()) > _DRUM_SHARE * whole


def pcm_hash(wav: npt.NDArray[np.float32], rate_hz: int) -> str:
    """Return a hash of the decoded samples, 32 hex digits: it does not depend on the file's format or tags."""
    import xxhash

    digest = xxhash.xxh3_128(f"{rate_hz} {wav.shape}".encode())
    digest.update(np.ascontiguousarray(wav).data)
    return digest.hexdigest()
