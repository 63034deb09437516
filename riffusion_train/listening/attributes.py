"""Tempo and key from the sound, without a trained model; and evidence for and against statements about a sound.

Tempo and key are estimates: of 28 produced tracks with a known tempo, 15 are within 4 %, and 23 if half, double and similar
ones count. To judge a tempo that somebody states is another question, and an easier one: whether the onsets repeat at that
tempo, whichever others they repeat at as well. So the evidence is how far the onsets support any tempo, the notes, and how
noisy and short the onsets are.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

# --- estimates -------------------------------------------------------------------------------------------------------

RATE_HZ = 22050
"""The sample rate at which attributes are measured."""
LONGEST_S = 60.0
"""Only the middle of longer tracks is measured: it represents the whole well, and bounds the cost."""
_SHORTEST_S = 1.0
"""Shorter sounds have neither tempo nor key."""
_HOP_LENGTH = 512
_MEDIAN_WIDTH = 31
"""Of the separation, in bins and in frames."""
_NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# Krumhansl & Kessler 1982, "Tracing the dynamic changes in perceived tonal organization", their probe-tone profiles.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


def measure_tempo(wav: npt.NDArray[np.float32], rate_hz: int) -> float | None:
    """Return the tempo of a sound in beats per minute, to a tenth; None without onsets, or if it is shorter than 1 s.

    Args:
        wav: Sound, shape (channels, samples).
        rate_hz: Its sample rate.
    """
    if wav.shape[1] < _SHORTEST_S * rate_hz:
        return None
    return tempo_of(*separate(magnitudes(middle_mono(wav, rate_hz))))[0]


def measure_key(wav: npt.NDArray[np.float32], rate_hz: int) -> str | None:
    """Return the key of a sound, for example `A minor`; None without pitch, or if it is shorter than 1 s.

    Args:
        wav: Sound, shape (channels, samples).
        rate_hz: Its sample rate.
    """
    if wav.shape[1] < _SHORTEST_S * rate_hz:
        return None
    return key_of(middle_mono(wav, rate_hz))[0]


def middle_mono(wav: npt.NDArray[np.float32], rate_hz: int, longest_s: float = LONGEST_S) -> npt.NDArray[np.float32]:
    """Return the middle `longest_s` seconds of a sound (channels, samples) in mono at `RATE_HZ`, shape (samples,)."""
    import soxr

    mono = wav.mean(axis=0)
    spare = max(0, len(mono) - round(longest_s * rate_hz))
    mono = mono[spare // 2 : len(mono) - (spare - spare // 2)]
    return np.asarray(soxr.resample(mono, rate_hz, RATE_HZ) if rate_hz != RATE_HZ else mono, np.float32)


def magnitudes(mono: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the magnitudes of the STFT of a sound at `RATE_HZ`, shape (1025, frames)."""
    import librosa

    return np.asarray(np.abs(librosa.stft(mono, n_fft=2048, hop_length=_HOP_LENGTH)))


def separate(spectrum: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the harmonic and the percussive part of magnitudes (bins, frames), by median filtering.

    Fitzgerald, "Harmonic/Percussive Separation Using Median Filtering", 2010, with the numbers of librosa's `hpss`: equal to
    it to the last bit, in a tenth of the time.
    """
    from librosa.util import softmask

    harmonic = _median_of_rows(spectrum)
    percussive = _median_of_rows(np.ascontiguousarray(spectrum.T)).T
    harmonic_mask = softmask(harmonic, percussive, power=2.0, split_zeros=True)
    percussive_mask = softmask(percussive, harmonic, power=2.0, split_zeros=True)
    return spectrum * harmonic_mask, spectrum * percussive_mask


def _median_of_rows(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the median of `_MEDIAN_WIDTH` values along each row, mirrored at the ends.

    All rows are one long one, with the mirrored ends between them: SciPy's filter in one dimension takes time that hardly
    depends on the width, that in two dimensions sorts each window anew.
    """
    from scipy.ndimage import rank_filter

    half = _MEDIAN_WIDTH // 2
    padded = np.pad(image, ((0, 0), (half, half)), mode="symmetric")
    filtered = rank_filter(padded.ravel(), rank=half, size=_MEDIAN_WIDTH, mode="constant").reshape(padded.shape)
    return np.asarray(filtered[:, half:-half])


def tempo_of(harmonic: npt.NDArray[np.float32], percussive: npt.NDArray[np.float32]) -> tuple[float | None, float]:
    """Return the tempo in beats per minute, to a tenth, by librosa's autocorrelation of onsets, and how regular the onsets are.

    The second number is their autocorrelation at one beat, from 0 to 1. Without onsets it is 0, and the tempo is None.

    Args:
        harmonic: Harmonic part of `magnitudes`.
        percussive: Percussive part. Beats are mostly in this one, and some in the onsets of notes.
    """
    import librosa
    from librosa.onset import onset_strength

    spectrum = percussive + 0.3 * harmonic
    onsets = onset_strength(S=librosa.amplitude_to_db(spectrum, ref=np.max), sr=RATE_HZ)
    if not onsets.any():
        return None, 0.0
    tempo = float(np.ravel(librosa.feature.tempo(onset_envelope=onsets, sr=RATE_HZ, hop_length=_HOP_LENGTH))[0])
    return (round(tempo, 1), _regularity(onsets, tempo)) if tempo > 0 else (None, 0.0)


def _regularity(onsets: npt.NDArray[np.float32], bpm: float) -> float:
    """Return the autocorrelation of the onsets at one beat, 0 to 1; the beat may be off by a frame."""
    lag = round(60.0 / bpm * RATE_HZ / _HOP_LENGTH)
    centred = onsets - onsets.mean()
    energy = float(np.square(centred).sum())
    lags = [each for each in (lag - 1, lag, lag + 1) if 0 < each < len(centred)]
    if not energy > 0 or not lags:
        return 0.0
    return float(np.clip(max(np.dot(centred[:-each], centred[each:]) for each in lags) / energy, 0.0, 1.0))


def key_of(mono: npt.NDArray[np.float32]) -> tuple[str | None, float]:
    """Return the key, for example `A minor`, and how well it fits, up to 1; None and 0 without pitch.

    It is the key whose profile of Krumhansl & Kessler (1982) correlates best with the mean chroma.

    Args:
        mono: Sound at `RATE_HZ`, shape (samples,).
    """
    return best_key(chroma_of(mono))


def chroma_of(mono: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the mean strength of each note, from C to B, (12,), of a sound at `RATE_HZ`, shape (samples,)."""
    from librosa.feature import chroma_cqt

    return np.asarray(chroma_cqt(y=mono, sr=RATE_HZ).mean(axis=1))


def best_key(chroma: npt.NDArray[np.float64]) -> tuple[str | None, float]:
    """Return the key that fits the notes (12,) best, and how well it does, up to 1; None and 0 without pitch."""
    if not chroma.std() > 0:
        return None, 0.0
    fit, key = max((fit, key) for key, fit in key_fits(chroma).items())
    return key, fit


def key_fits(chroma: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return how well the notes of a sound fit each of the 24 keys: the correlation with its profile.

    Args:
        chroma: Strength of each note, from C to B, (12,).
    """
    # The profiles of C major and C minor, rotated to each tonic.
    return {
        f"{_NOTES[tonic]} {mode}": float(np.corrcoef(np.roll(profile, tonic), chroma)[0, 1])
        for profile, mode in ((_MAJOR, "major"), (_MINOR, "minor"))
        for tonic in range(12)
    }


def relative_key(key: str) -> str:
    """Return the key with the same notes: A minor for C major, and C major for A minor."""
    note, mode = key.split()
    steps, other = (3, "major") if mode == "minor" else (9, "minor")
    return f"{_NOTES[(_NOTES.index(note) + steps) % 12]} {other}"


# --- evidence --------------------------------------------------------------------------------------------------------

TEMPI_BPM: tuple[float, ...] = tuple(30.0 * 1.025**step for step in range(97))
"""The tempi whose support is measured: from 30 to 321 beats per minute, 2.5 % apart."""
BANDS_HZ: tuple[tuple[int, int], ...] = ((40, 150), (150, 500), (500, 2000), (2000, 6000), (6000, 11025))
"""The bands in which strokes on drums and cymbals are looked for."""
_LONGEST_EVIDENCE_S = 30.0
_ONSET_HOP_LENGTH = 256
_ONSET_HOP_S = _ONSET_HOP_LENGTH / RATE_HZ
_TOLERANCE = 0.025
_LONGEST_BEAT_S = 2.0
_SHORTEST_BEAT_S = 0.2
_MOST_OF_SOUND = 0.8
"""Lags beyond this share of the sound have too few pairs of onsets."""
_WEAKEST_PEAK = 0.05
"""Autocorrelation below which no tempo is supported: noise has 0.03."""
_QUIETEST = 1e-6
"""Share of the whole energy below which a band is empty."""
_ONSET_SHARE, _FEWEST_ONSETS = 0.03, 3
"""Of the hops, those with the strongest onsets that `strokes_of` looks at: two or three a second."""
_ONSETS_APART = 4
"""Hops on either side of an onset without a stronger one: 46 ms."""
_RISEN_HOPS, _FADED_HOPS = 2, (8, 11)
"""From the start of an onset to where `strokes_of` looks: at 23 ms, and again at 93 to 128 ms."""
_NOISIEST_PERCENT = 85


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the sound of a track says for and against statements about it.

    Attributes:
        pulse: How far the onsets support each tempo of `TEMPI_BPM`, in percent of the best; empty without regular onsets.
        chroma: The share of each note, from C to B; empty without pitch.
        strokes: How much the onsets are like those of drums, see `strokes_of`; empty in silence.
    """

    pulse: tuple[int, ...] = ()
    chroma: tuple[float, ...] = ()
    strokes: tuple[float, ...] = ()

    def as_data(self) -> dict[str, list[float]]:
        """Return it as JSON-ready data."""
        return {field.name: list(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read what `as_data` returned, of another version as well: fields that it does not have are empty.

        Raises:
            TypeError: If it is something else.
        """
        return cls(**{field.name: tuple(data.get(field.name, ())) for field in dataclasses.fields(cls)})


def gather_evidence(mono: npt.NDArray[np.float32], chroma: npt.NDArray[np.float64]) -> Evidence:
    """Return the evidence of a sound; an empty one if it is shorter than a second.

    Args:
        mono: Sound at `RATE_HZ`, shape (samples,); of longer ones the middle `_LONGEST_EVIDENCE_S` seconds count.
        chroma: Strength of each of its notes, from C to B, (12,).
    """
    from librosa.onset import onset_strength

    if len(mono) < RATE_HZ or not mono.any():
        return Evidence()
    spare = max(0, len(mono) - round(_LONGEST_EVIDENCE_S * RATE_HZ))
    mono = mono[spare // 2 : len(mono) - (spare - spare // 2)]
    onsets = onset_strength(y=mono, sr=RATE_HZ, hop_length=_ONSET_HOP_LENGTH)
    shares = chroma / max(float(chroma.sum()), 1e-9)
    return Evidence(
        pulse=pulse_of(np.asarray(onsets, np.float64)),
        chroma=tuple(round(float(share), 4) for share in shares) if chroma.std() > 0 else (),
        strokes=strokes_of(mono),
    )


def pulse_of(onsets: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Return how far onsets support each tempo of `TEMPI_BPM`, in percent.

    It is their mean autocorrelation at half a beat, one, two and four beats, relative to the highest at any lag that a beat can
    have. A tempo that is no multiple of the true one may meet it at one of these lags, but not at all of them.

    Args:
        onsets: Strength of the onsets in each hop of 256 samples, (hops,).
    """
    correlation = _autocorrelation(onsets)
    beats = correlation[round(_SHORTEST_BEAT_S / _ONSET_HOP_S) : round(_LONGEST_BEAT_S / _ONSET_HOP_S)]
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
    first, last = (lag_s * (1 + sign * _TOLERANCE) / _ONSET_HOP_S for sign in (-1, 1))
    near = correlation[int(np.floor(first)) : int(np.ceil(last)) + 1]
    return float(near.max()) if len(near) else None


def support_of(pulse: Sequence[int], bpm: float) -> int:
    """Return the support for a tempo, in percent: that of the nearest of `TEMPI_BPM`, 0 outside of them."""
    step = round(float(np.log(bpm / TEMPI_BPM[0]) / np.log(TEMPI_BPM[1] / TEMPI_BPM[0])))
    return pulse[step] if 0 <= step < len(pulse) else 0


def strokes_of(mono: npt.NDArray[np.float32]) -> tuple[float, ...]:
    """Return how much the strongest onsets of a sound are like strokes on a drum or a cymbal.

    A stroke is noise, and is over soon. A tone that is plucked or struck begins as suddenly, but its partials stand apart and
    ring on.

    Args:
        mono: Sound at `RATE_HZ`, shape (samples,).

    Returns:
        Four values of each of `BANDS_HZ`, 0 for those of a band without sound, each a median of the strongest onsets but
        for the second. First the noisiness of each band 23 ms after the start of an onset, which is the spectral flatness:
        the geometric mean of the power over the mean, from 0 for one partial to about 0.56 for noise. Then the noisiness
        that one in seven of them exceeds, since most onsets of a track may be others. Then how much of what has risen is
        gone after 0.1 s, from 0 for a sound that rings on to 1; what sounded before does not count, so strokes in full
        music are found. Last the product of noisiness, what is gone, and how suddenly the energy rises, from 0 to 1. Only a
        stroke has all three: a steady hiss is noisy, and a muted tone is soon over.
    """
    import librosa

    power = np.square(np.abs(librosa.stft(mono, n_fft=1024, hop_length=_ONSET_HOP_LENGTH)))  # (513, frames)
    frequencies_hz = librosa.fft_frequencies(sr=RATE_HZ, n_fft=1024)
    quietest, floor = _QUIETEST * float(power.sum()), 1e-12 * float(power.max())
    found = []
    for low_hz, high_hz in BANDS_HZ:
        band = power[(frequencies_hz >= low_hz) & (frequencies_hz < high_hz)]  # (bins, frames)
        starts = _strongest_onsets(band) if band.sum() > quietest else np.zeros(0, int)
        if len(starts) < _FEWEST_ONSETS:
            found.append((0.0, 0.0, 0.0, 0.0))
            continue
        risen = band[:, starts + _RISEN_HOPS]  # (bins, onsets)
        noisy = np.exp(np.log(risen + floor).mean(axis=0)) / (risen + floor).mean(axis=0)  # (onsets,), as all below
        later = np.mean([band[:, starts + hops] for hops in range(*_FADED_HOPS)], axis=0)
        left = np.maximum(np.minimum(later, risen) - band[:, starts], 0.0).sum(axis=0)
        gone = 1.0 - left / (np.maximum(risen - band[:, starts], 0.0).sum(axis=0) + floor)
        energy = band.sum(axis=0)
        peak = np.max([energy[starts + hops] for hops in range(1, 2 * _RISEN_HOPS + 1)], axis=0)
        sudden = np.clip(1.0 - energy[starts] / (peak + floor), 0.0, 1.0)
        strokes = np.median(noisy * gone * sudden)
        found.append((np.median(noisy), np.percentile(noisy, _NOISIEST_PERCENT), np.median(gone), strokes))
    return tuple(round(float(value), 3) for values in zip(*found, strict=True) for value in values)


def _strongest_onsets(band: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Return the hops in which the strongest onsets of a band (bins, frames) start, each apart from stronger ones."""
    from scipy.ndimage import maximum_filter1d

    rise = np.maximum(band[:, _RISEN_HOPS:] - band[:, :-_RISEN_HOPS], 0.0).sum(axis=0)[: 1 - _FADED_HOPS[1]]
    highest = maximum_filter1d(rise, 2 * _ONSETS_APART + 1, mode="constant")
    onsets = np.flatnonzero((rise == highest) & (rise > 0))
    return onsets[np.argsort(rise[onsets], kind="stable")[-max(_FEWEST_ONSETS, int(_ONSET_SHARE * len(rise))) :]]
