"""How a clip sounds, whatever music it is: loudness, clipping, silence, bandwidth, DC offset, repetition within the clip."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from riffusion_train.audio.io.clipping import CLIPPED_SHARE, clipped_share
from riffusion_train.audio.io.loudness import measure_lufs
from riffusion_train.audio.io.read import resample

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
    from riffusion_train.audio.codec.analysis import HTK_CORNER_HZ, mel_filter_bank  # imports torch

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
