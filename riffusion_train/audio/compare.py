"""Distances between two sounds: the metrics by which the codec is judged. Lower is better, 0 is equal.

All of them compare magnitudes, as the phase of a decoded sound is invented. Both sounds are resampled to 44.1 kHz; nothing is
shifted in time. By default the second is brought to the level of the first, so that a codec which does not keep the level is
judged by everything else. Perceptual scores such as PEAQ are left out: no maintained package computes them.
"""

import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np
import torch

from riffusion_train.audio.convert import LoadedSound, load_sound
from riffusion_train.audio.mel import HTK_CORNER_HZ, mel_filter_bank
from riffusion_train.audio.read import resample
from riffusion_train.config.spectrogram import Inverter, Quality
from riffusion_train.runtime.errors import InputError

RATE_HZ = 44100
"""The rate at which sounds are compared."""

BAND_EDGES_HZ = (0, 100, 300, 1000, 3000, 10000, 16000)
"""Edges of the bands of `band_log_mel_db` and `band_level_db`."""

N_FFT = 2048
HOP_LENGTH = 512

_MEL_BANDS, _MEL_TOP_HZ, _LOW_HZ = 128, 16000.0, 10000.0
_FLOOR_DB = 80.0
_LONGEST_S = 1800
_RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512), (4096, 1024))
_COHERENCE_BANDS, _COHERENCE_FRAMES, _COHERENCE_FLOOR_DB = 24, 8, 60.0


@dataclasses.dataclass(frozen=True)
class SoundDistance:
    """The distances between a reference and another sound; of stereo sounds, the mean over the channels.

    Attributes:
        log_mel_db: Mean absolute difference of mel power spectra in decibels: 128 HTK bands from 0 to 16 kHz, Hann window
            of 2048 with hop 512; both have a floor at 80 dB below the loudest cell of the reference's channel.
        log_mel_10k_db: The same over the bands whose centre lies below 10 kHz, where the original Riffusion ends.
        band_log_mel_db: The same over the bands whose centre lies between two neighbours of `BAND_EDGES_HZ`.
        band_level_db: Level of the other sound over that of the reference between two neighbours of `BAND_EDGES_HZ`.
        spectral_convergence: ||A - B|| / ||A|| of the magnitudes, Frobenius norm, window 2048, hop 512.
        multi_resolution_stft: Mean over windows of 512, 1024, 2048 and 4096 (hop a quarter) of the spectral convergence plus
            the mean absolute difference of natural log magnitudes, with a floor at 80 dB below the reference's loudest cell
            (after Yamamoto, Song, Kim, "Parallel WaveGAN", ICASSP 2020).
        coherence_error: Mean absolute difference of the inter-channel coherence Re <L R*> / sqrt(<|L|^2> <|R|^2>), the
            averages over 24 HTK bands from 0 to 16 kHz and 8 frames, where the reference is within 60 dB of its loudest
            such cell; None where the reference is mono.
        gain_db: Gain that was applied to the other sound; 0 where levels were kept.
    """

    log_mel_db: float
    log_mel_10k_db: float
    band_log_mel_db: tuple[float, ...]
    band_level_db: tuple[float, ...]
    spectral_convergence: float
    multi_resolution_stft: float
    coherence_error: float | None
    gain_db: float


def compare_sounds(
    reference: np.ndarray,
    reference_rate_hz: int,
    other: np.ndarray,
    other_rate_hz: int,
    *,
    match_level: bool = True,
) -> SoundDistance:
    """Measure the distance from one sound to another.

    Args:
        reference: (channels, samples). Where the channel numbers differ, a mono sound counts as two equal channels.
        reference_rate_hz: Its sample rate.
        other: (channels, samples); it is cut, or padded with silence, to the duration of the reference.
        other_rate_hz: Its sample rate.
        match_level: Apply one gain to all channels of `other`, so that its power below 10 kHz is that of the reference.

    Raises:
        InputError: If the reference is silent, or the two have more than two channels and not equally many.
    """
    first, second = resample(reference, reference_rate_hz, RATE_HZ), resample(other, other_rate_hz, RATE_HZ)
    if not np.abs(first).max(initial=0) > 0:
        raise InputError("the first sound is silent, so that nothing can be compared with it; give another")
    first, second = _same_shape(first, second)
    gain = _gain(first, second) if match_level else 1.0
    second = second * np.float32(gain)
    a, b = torch.from_numpy(first), torch.from_numpy(second)
    errors_db, levels_db = _log_mel_errors_db(a, b)  # (bands,), (len(BAND_EDGES_HZ) - 1,)
    centres_hz = _mel_centres_hz()
    per_band = [
        float(errors_db[(centres_hz >= low) & (centres_hz < high)].mean())
        for low, high in itertools.pairwise(BAND_EDGES_HZ)
    ]
    return SoundDistance(
        log_mel_db=float(errors_db.mean()),
        log_mel_10k_db=float(errors_db[centres_hz < _LOW_HZ].mean()),
        band_log_mel_db=tuple(per_band),
        band_level_db=levels_db,
        spectral_convergence=float(_convergence(magnitudes(a), magnitudes(b)).mean()),
        multi_resolution_stft=_multi_resolution(a, b),
        coherence_error=_coherence_error(a, b) if len(reference) == 2 else None,
        gain_db=20 * float(np.log10(max(gain, 1e-12))),
    )


def mel_power_db(wav: torch.Tensor, bands: int = _MEL_BANDS, top_hz: float = _MEL_TOP_HZ) -> torch.Tensor:
    """Return mel power in decibels without a floor, (channels, bands, frames), of sound at `RATE_HZ`, (channels, samples)."""
    power = _filters(bands, N_FFT, top_hz).T @ magnitudes(wav).square()
    return 10 * power.clamp(min=1e-30).log10()


def magnitudes(wav: torch.Tensor, n_fft: int = N_FFT, hop_length: int = HOP_LENGTH) -> torch.Tensor:
    """Return the magnitudes of the STFT, (channels, bins, frames), with a periodic Hann window and silence at the ends."""
    return _spectrum(wav, n_fft, hop_length).abs()


def _spectrum(wav: torch.Tensor, n_fft: int, hop_length: int) -> torch.Tensor:
    window = torch.hann_window(n_fft)
    return torch.stft(wav, n_fft, hop_length, window=window, center=True, pad_mode="constant", return_complex=True)


def _same_shape(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    channels = max(len(first), len(second))
    if any(len(wav) not in (1, channels) for wav in (first, second)):
        raise InputError(f"{len(first)} and {len(second)} channels cannot be compared; mix them down first")
    samples = first.shape[1]
    second = np.pad(second[:, :samples], ((0, 0), (0, max(0, samples - second.shape[1]))))
    shape = (channels, samples)
    return np.array(np.broadcast_to(first, shape)), np.array(np.broadcast_to(second, shape))


def _gain(first: np.ndarray, second: np.ndarray) -> float:
    """Return the gain that brings the power of `second` below 10 kHz to that of `first`; 1 where it is silent."""
    below = np.fft.rfftfreq(first.shape[1], 1 / RATE_HZ) < _LOW_HZ
    powers = [float(np.square(np.abs(np.fft.rfft(wav)[:, below])).sum()) for wav in (first, second)]
    return float(np.sqrt(powers[0] / powers[1])) if powers[1] > 0 else 1.0


def _log_mel_errors_db(a: torch.Tensor, b: torch.Tensor) -> tuple[np.ndarray, tuple[float, ...]]:
    """Return the mean error of every mel band, (bands,), and the level differences between `BAND_EDGES_HZ`."""
    first, second = mel_power_db(a), mel_power_db(b)
    floor = first.amax((1, 2), keepdim=True) - _FLOOR_DB  # of each channel separately
    floor = torch.maximum(floor, first.max() - _FLOOR_DB - 20)  # unless the channel is next to silent
    errors = (torch.maximum(first, floor) - torch.maximum(second, floor)).abs().mean((0, 2))
    bins_hz = torch.arange(N_FFT // 2 + 1) * (RATE_HZ / N_FFT)
    powers = [magnitudes(wav).square().sum((0, 2)) for wav in (a, b)]
    quiet = 1e-10 * float(powers[0].sum())  # 100 dB below the whole: the level of empty bands
    levels = []
    for low, high in itertools.pairwise(BAND_EDGES_HZ):
        inside = (bins_hz >= low) & (bins_hz < high)
        reference, other = (float(power[inside].sum()) + quiet for power in powers)
        levels.append(10 * float(np.log10(other / reference)))
    return errors.numpy(), tuple(levels)


def _convergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the spectral convergence of each channel; a silent channel counts by the power of the loudest."""
    norms = first.square().sum((1, 2)).sqrt()
    norms = torch.maximum(norms, 1e-3 * norms.max())
    return (first - second).square().sum((1, 2)).sqrt() / norms


def _multi_resolution(a: torch.Tensor, b: torch.Tensor) -> float:
    distances = []
    for n_fft, hop_length in _RESOLUTIONS:
        first, second = (magnitudes(wav, n_fft, hop_length) for wav in (a, b))
        floor = float(first.max()) * 10 ** (-_FLOOR_DB / 20)
        logs = (first.clamp(min=floor).log() - second.clamp(min=floor).log()).abs().mean((1, 2))
        distances.append(float((_convergence(first, second) + logs).mean()))
    return float(np.mean(distances))


def _coherence_error(a: torch.Tensor, b: torch.Tensor) -> float:
    (coherence, power), (other, _) = _coherence(a), _coherence(b)
    audible = power > float(power.max()) * 10 ** (-_COHERENCE_FLOOR_DB / 10)
    return float((coherence - other).abs()[audible].mean())


def _coherence(wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the coherence of two channels and their power, each (bands, blocks of frames)."""
    left, right = _spectrum(wav, N_FFT, HOP_LENGTH)
    cross, left_power, right_power = (
        torch.nn.functional.avg_pool1d(
            (_filters(_COHERENCE_BANDS, N_FFT, _MEL_TOP_HZ).T @ cell)[None], _COHERENCE_FRAMES, ceil_mode=True
        )[0]
        for cell in ((left * right.conj()).real, left.abs().square(), right.abs().square())
    )
    return cross / (left_power * right_power).sqrt().clamp(min=1e-20), left_power + right_power


@functools.cache
def _filters(bands: int, n_fft: int, top_hz: float) -> torch.Tensor:
    """Return mel filters, (bins, bands); a band too narrow to contain a bin gets the nearest one."""
    filters = mel_filter_bank(n_fft, RATE_HZ, bands, 0.0, top_hz, HTK_CORNER_HZ).clone()
    centres = _centres_hz(bands, top_hz) * n_fft / RATE_HZ
    for band in np.nonzero(filters.sum(0).numpy() <= 0)[0]:
        filters[round(float(centres[band])), band] = 1.0
    return filters


def _mel_centres_hz() -> np.ndarray:
    return _centres_hz(_MEL_BANDS, _MEL_TOP_HZ)


def _centres_hz(bands: int, top_hz: float) -> np.ndarray:
    top = np.log10(1 + top_hz / HTK_CORNER_HZ)
    return HTK_CORNER_HZ * (10 ** np.linspace(0, top, bands + 2)[1:-1] - 1)


@dataclasses.dataclass(frozen=True)
class FileComparison:
    """Two sounds as they were compared, (channels, samples) each at its own rate, and how far apart they are."""

    distance: SoundDistance
    first: LoadedSound
    second: LoadedSound
    warnings: tuple[str, ...]
    """What the comparison had to leave out or even out, one line each."""


def compare_files(
    first: Path,
    second: Path,
    *,
    match_level: bool = True,
    preset: str | None = None,
    quality: Quality = Quality.normal,
    inverter: Inverter = Inverter.pghi,
) -> FileComparison:
    """Compare two sound files; an image or a folder of slices stands for the sound it decodes to.

    Only the first half hour is compared, and only what the first sound covers. A stereo sound is mixed down if the other one
    is mono.

    Args:
        first: The reference.
        second: The other sound.
        match_level: Whether the second is brought to the level of the first.
        preset: For images: the codec, as in `decode_images`.
        quality: For images: how long to search for the phase.
        inverter: For images: how the phase is found.

    Raises:
        InputError: If a file cannot be used, or the sounds cannot be compared.
    """
    warnings: list[str] = []
    sounds = []
    for path in (first, second):
        sound = load_sound(path, preset=preset, quality=quality, inverter=inverter)
        warnings += sound.warnings
        longest = _LONGEST_S * sound.rate_hz
        if sound.wav.shape[1] > longest:
            minutes = _LONGEST_S // 60
            warnings.append(f"{path}: is longer than {minutes} minutes; the first {minutes} are compared")
        sounds.append(dataclasses.replace(sound, wav=sound.wav[:, :longest]))
    a, b = sounds
    durations_s = [sound.wav.shape[1] / sound.rate_hz for sound in sounds]
    if abs(durations_s[0] - durations_s[1]) > 0.1:
        lengths = f"lasts {durations_s[1]:.2f} s, not {durations_s[0]:.2f} s"
        warnings.append(f"{second}: {lengths}; only what {first.name} covers is compared")
    if len(a.wav) != len(b.wav) and 1 in (len(a.wav), len(b.wav)):
        mono, other = (first, second) if len(a.wav) == 1 else (second, first)
        warnings.append(f"{mono}: is mono; {other} is mixed down to mono for the comparison")
        a, b = (dataclasses.replace(sound, wav=sound.wav.mean(0, keepdims=True)) for sound in (a, b))
    try:
        distance = compare_sounds(a.wav, a.rate_hz, b.wav, b.rate_hz, match_level=match_level)
    except InputError as error:
        raise InputError(f"{first}, {second}: {error}") from None
    return FileComparison(distance, a, b, tuple(warnings))
