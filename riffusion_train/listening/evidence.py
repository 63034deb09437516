"""Evidence for and against statements about a sound: how far its onsets support any tempo, its notes, its percussion.

`attributes` answers which tempo or key a sound has. To judge a tempo that somebody states is another question, and an easier
one: whether the onsets repeat at that tempo, whichever others they repeat at as well.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from riffusion_train.listening.attributes import RATE_HZ, separate

TEMPI_BPM: tuple[float, ...] = tuple(30.0 * 1.025**step for step in range(97))
"""The tempi whose support is measured: from 30 to 321 beats per minute, 2.5 % apart."""
BANDS_HZ: tuple[tuple[int, int], ...] = ((0, 150), (150, 500), (500, 2000), (2000, 6000), (6000, 11025))
"""The bands whose percussive share is measured."""
_LONGEST_S = 30.0
_HOP_LENGTH = 256
_HOP_S = _HOP_LENGTH / RATE_HZ
_TOLERANCE = 0.025
_LONGEST_BEAT_S = 2.0
_SHORTEST_BEAT_S = 0.2
_MOST_OF_SOUND = 0.8
"""Lags beyond this share of the sound have too few pairs of onsets."""
_WEAKEST_PEAK = 0.05
"""Autocorrelation below which no tempo is supported: noise has 0.03."""
_QUIETEST = 1e-6
"""Share of the whole energy below which a band is empty."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the sound of a track says for and against statements about it.

    Attributes:
        pulse: How far the onsets support each tempo of `TEMPI_BPM`, in percent of the best; empty without regular onsets.
        chroma: The share of each note, from C to B; empty without pitch.
        percussive: The share of each of `BANDS_HZ` that is percussive, from 0 to 1; empty in silence.
    """

    pulse: tuple[int, ...] = ()
    chroma: tuple[float, ...] = ()
    percussive: tuple[float, ...] = ()

    def as_data(self) -> dict[str, list[float]]:
        """Return it as JSON-ready data."""
        return {field.name: list(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read what `as_data` returned.

        Raises:
            TypeError: If it is something else.
        """
        return cls(**{name: tuple(values) for name, values in data.items()})


def gather_evidence(mono: npt.NDArray[np.float32], chroma: npt.NDArray[np.float64]) -> Evidence:
    """Return the evidence of a sound; an empty one if it is shorter than a second.

    Args:
        mono: Sound at `RATE_HZ`, shape (samples,); of longer ones the middle `_LONGEST_S` seconds count.
        chroma: Strength of each of its notes, from C to B, (12,).
    """
    from librosa.onset import onset_strength

    if len(mono) < RATE_HZ or not mono.any():
        return Evidence()
    spare = max(0, len(mono) - round(_LONGEST_S * RATE_HZ))
    mono = mono[spare // 2 : len(mono) - (spare - spare // 2)]
    onsets = onset_strength(y=mono, sr=RATE_HZ, hop_length=_HOP_LENGTH)
    shares = chroma / max(float(chroma.sum()), 1e-9)
    return Evidence(
        pulse=pulse_of(np.asarray(onsets, np.float64)),
        chroma=tuple(round(float(share), 4) for share in shares) if chroma.std() > 0 else (),
        percussive=percussive_shares(mono),
    )


def pulse_of(onsets: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Return how far onsets support each tempo of `TEMPI_BPM`, in percent.

    It is their mean autocorrelation at half a beat, one, two and four beats, relative to the highest at any lag that a beat can
    have. A tempo that is no multiple of the true one may meet it at one of these lags, but not at all of them.

    Args:
        onsets: Strength of the onsets in each hop of 256 samples, (hops,).
    """
    correlation = _autocorrelation(onsets)
    beats = correlation[round(_SHORTEST_BEAT_S / _HOP_S) : round(_LONGEST_BEAT_S / _HOP_S)]
    best = float(beats.max()) if len(beats) else 0.0
    if best < _WEAKEST_PEAK:
        return ()
    supports = []
    for bpm in TEMPI_BPM:
        peaks = [_peak(correlation, beats_in_lag * 60.0 / bpm) for beats_in_lag in (0.5, 1.0, 2.0, 4.0)]
        inside = [peak for peak in peaks if peak is not None]
        supports.append(sum(inside) / len(inside) / best if inside else 0.0)
    return tuple(round(100 * min(max(support, 0.0), 1.0)) for support in supports)


def _autocorrelation(onsets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the unbiased autocorrelation by lag in hops, 1 at lag 0, of the lags that have enough pairs of onsets."""
    centred = onsets - onsets.mean()
    length = len(centred)
    spectrum = np.fft.rfft(centred, 2 * length)
    raw = np.fft.irfft(np.abs(spectrum) ** 2)[:length] / (length - np.arange(length))
    return raw[: int(_MOST_OF_SOUND * length)] / max(raw[0], 1e-12)


def _peak(correlation: npt.NDArray[np.float64], lag_s: float) -> float | None:
    """Return the highest autocorrelation near a lag; None beyond the end."""
    first, last = (lag_s * (1 + sign * _TOLERANCE) / _HOP_S for sign in (-1, 1))
    near = correlation[int(np.floor(first)) : int(np.ceil(last)) + 1]
    return float(near.max()) if len(near) else None


def support_of(pulse: Sequence[int], bpm: float) -> int:
    """Return the support for a tempo, in percent: that of the nearest of `TEMPI_BPM`, 0 outside of them."""
    step = round(float(np.log(bpm / TEMPI_BPM[0]) / np.log(TEMPI_BPM[1] / TEMPI_BPM[0])))
    return pulse[step] if 0 <= step < len(pulse) else 0


def percussive_shares(mono: npt.NDArray[np.float32]) -> tuple[float, ...]:
    """Return the share of each of `BANDS_HZ` that is percussive: in short noises rather than in long tones.

    By median filtering (Fitzgerald 2010), see `attributes.separate`. A band without sound has 0.

    Args:
        mono: Sound at `RATE_HZ`, shape (samples,).
    """
    import librosa

    spectrum = np.abs(librosa.stft(mono, n_fft=1024, hop_length=_HOP_LENGTH))  # (513, frames)
    _, percussive = separate(spectrum)
    frequencies_hz = librosa.fft_frequencies(sr=RATE_HZ, n_fft=1024)
    energy, whole = np.square(percussive).sum(axis=1), np.square(spectrum).sum(axis=1)  # (513,)
    shares = []
    for low_hz, high_hz in BANDS_HZ:
        band = (frequencies_hz >= low_hz) & (frequencies_hz < high_hz)
        total = float(whole[band].sum())
        empty = total <= _QUIETEST * float(whole.sum())
        shares.append(0.0 if empty else round(float(energy[band].sum()) / total, 3))
    return tuple(shares)
