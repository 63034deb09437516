"""Sound to mel magnitudes, and between mel magnitudes and the pixels of an image.

The mel filters, the windowed frames, and warnings about what an image loses of a sound; then what a level means, and which
channel is in which colour.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numba
import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
import torchaudio.functional
from torch import Tensor

from riffusion_train.audio import kernels
from riffusion_train.audio.kernels import BLOCK_FRAMES, BandedProduct, inside_runs, magnitude, parts, runs
from riffusion_train.config.spectrogram import Channels, Rounding, Scale, SpectrogramConfig
from riffusion_train.runtime.errors import InputError

# --- sound to mel magnitudes -----------------------------------------------------------------------------------------

HTK_CORNER_HZ = 700.0

_MEL_PER_DECADE = 2595.0


def mel_filter_bank(
    n_fft: int, rate_hz: int, n_mels: int, f_min_hz: float, f_max_hz: float, corner_hz: float
) -> torch.Tensor:
    """Return triangular filters of height 1, evenly spaced on mel(f) = 2595 log10(1 + f / corner), (n_fft // 2 + 1, n_mels).

    A corner of 700 Hz is the HTK scale; torchaudio's own filters are taken there, so that images agree with the original
    Riffusion to the last bit.
    """
    if corner_hz == HTK_CORNER_HZ:
        return torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, f_min_hz, f_max_hz, n_mels, rate_hz, norm=None, mel_scale="htk"
        )
    low, high = (_MEL_PER_DECADE * math.log10(1 + f / corner_hz) for f in (f_min_hz, f_max_hz))
    edges_hz = corner_hz * (10 ** (np.linspace(low, high, n_mels + 2) / _MEL_PER_DECADE) - 1)
    bins_hz = np.arange(n_fft // 2 + 1)[:, None] * rate_hz / n_fft
    rising = (bins_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])
    return torch.from_numpy(np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32))


def onto_grid(filters: torch.Tensor, bin_hz: float, grid_bin_hz: float, grid_bins: int) -> torch.Tensor:
    """Resample filters from bins spaced `bin_hz` to a grid spaced `grid_bin_hz`, (grid_bins, n_mels).

    Magnitudes are taken to be linear between two bins of the grid, so a filter's weight at a frequency is split between
    the two nearest bins of the grid (hat functions).
    """
    weights = filters.numpy().astype(np.float64)
    position = np.arange(len(weights)) * bin_hz / grid_bin_hz
    below = np.floor(position).astype(np.int64)
    share = (position - below)[:, None]
    grid = np.zeros((grid_bins, weights.shape[1]))
    for index, part in ((below, weights * (1 - share)), (below + 1, weights * share)):
        inside = index < grid_bins
        np.add.at(grid, index[inside], part[inside])
    return torch.from_numpy(grid.astype(np.float32))


class MelBands:
    """Mel filters as the runs of weights that are not zero.

    Args:
        filters: (bins, n_mels), float32; every filter has one run.
    """

    def __init__(self, filters: Tensor) -> None:
        self._n_mels = filters.shape[1]
        self._firsts, self._starts = runs(filters.numpy())
        self._weights = inside_runs(filters.numpy(), self._firsts, self._starts)
        self._top = int((self._firsts + np.diff(self._starts)).max())

    def of_magnitudes(self, spectra: Tensor) -> Tensor:
        """Return the mel magnitudes of complex spectra in the host's memory, (..., bins) -> (..., n_mels)."""
        mels = torch.empty(*spectra.shape[:-1], self._n_mels)
        numbers = parts(spectra).reshape(-1, spectra.shape[-1], 2)
        rows = mels.numpy().reshape(-1, self._n_mels)
        _mel_magnitudes(numbers, self._firsts, self._starts, self._weights, self._top, rows)
        return mels


def window_frames(wavs: Tensor, window: Tensor, hop_length: int, first: int, frames: Tensor) -> None:
    """Write frames of sounds under a window into the middle of `frames`; beyond the ends the sounds are reflected.

    Args:
        wavs: (rows, samples), longer than half a frame.
        window: Not longer than a frame.
        hop_length: Samples between frames; frame 0 is centred on sample 0.
        first: The first frame to write.
        frames: (rows, some frames, frame length); only the samples under the window are written.
    """
    _window_frames(wavs.contiguous().numpy(), window.numpy(), hop_length, first, frames.numpy())


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _window_frames(wavs: Any, window: Any, hop_length: int, first: int, frames: Any) -> None:
    samples, width = wavs.shape[1], len(window)
    margin = (frames.shape[2] - width) // 2
    for row in range(len(frames)):
        for frame in range(frames.shape[1]):
            begin = (first + frame) * hop_length + margin - frames.shape[2] // 2
            if begin >= 0 and begin + width <= samples:
                for offset in range(width):
                    frames[row, frame, margin + offset] = wavs[row, begin + offset] * window[offset]
                continue
            for offset in range(width):
                sample = abs(begin + offset)  # reflected at the start, and below at the end
                if sample >= samples:
                    sample = 2 * (samples - 1) - sample
                frames[row, frame, margin + offset] = wavs[row, sample] * window[offset]


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _mel_magnitudes(spectra: Any, firsts: Any, starts: Any, weights: Any, top: int, mels: Any) -> None:
    """Write the mel magnitudes, (frames, bands), of spectra (frames, bins, 2), whose bins from `top` on have no weight."""
    magnitudes = np.zeros((top, BLOCK_FRAMES), np.float32)
    totals = np.empty(BLOCK_FRAMES, np.float32)
    for first in range(0, len(spectra), BLOCK_FRAMES):
        count = min(BLOCK_FRAMES, len(spectra) - first)
        for frame in range(count):
            for k in range(top):
                real, imaginary = spectra[first + frame, k, 0], spectra[first + frame, k, 1]
                magnitudes[k, frame] = np.sqrt(real * real + imaginary * imaginary)
        for band in range(len(firsts)):
            totals[:] = 0
            for weight in range(starts[band], starts[band + 1]):
                k = firsts[band] + weight - starts[band]
                for frame in range(BLOCK_FRAMES):
                    totals[frame] += magnitudes[k, frame] * weights[weight]
            for frame in range(count):
                mels[first + frame, band] = totals[frame]


_FRAMES_AT_ONCE = 128
"""Frames that the encoder processes at a time on the CPU: so many fit the cache."""

_INAUDIBLE = 1e6
"""Product of two mel magnitudes of 16-bit samples below which the phase between the channels does not matter."""


class MelAnalysis:
    """Mel magnitudes of a sound: centred frames, reflection at the ends, a periodic Hann window, magnitudes, mel filters.

    The values are those of `torch.stft` and a matrix product but for the order of the product's sums. Only the frequencies
    below the top of the highest band are computed, for some frames at a time.

    Args:
        filters: Mel filters, (n_fft // 2 + 1, n_mels).
        win_length: Length of the window in samples.
        hop_length: Samples between frames.
        gain: Factor of the samples.
    """

    def __init__(self, filters: Tensor, win_length: int, hop_length: int, gain: float) -> None:
        self._product = BandedProduct(filters)
        self._bands = MelBands(filters)
        self._window = torch.hann_window(win_length, periodic=True) * gain
        self._n_fft = 2 * (len(filters) - 1)
        self._hop_length = hop_length

    def __call__(self, wavs: Tensor) -> Tensor:
        """Return the mel magnitudes of sounds longer than half an FFT, (rows, samples) -> (rows, frames, n_mels)."""
        if kernels.on_host(wavs):
            return torch.cat([self._bands.of_magnitudes(spectra) for spectra in self._spectra(wavs)], 1)
        return torch.cat([self._product(magnitude(spectra)) for spectra in self._spectra(wavs)], 1)

    def stereo(self, wavs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mel magnitudes of two channels and the cosine of the phase between them.

        The cosine of a band is the mean over its frequencies, weighted by both magnitudes. Towards silence it goes to 1.

        Args:
            wavs: (clips, 2, samples), longer than half an FFT.

        Returns:
            (clips, 2, frames, n_mels) and (clips, frames, n_mels).
        """
        mels, cosines = [], []
        for spectrum in self._spectra(wavs.flatten(0, 1)):
            pair = spectrum[..., : self._product.rows_used].unflatten(0, (-1, 2))
            magnitudes = magnitude(pair)  # (clips, 2, frames, bins)
            left, right = pair.unbind(1)
            # Re(L conj R) = |L| |R| cos, summed over the band, by its largest possible value.
            shared = self._product(left.real * right.real + left.imag * right.imag)
            most = self._product(magnitudes[:, 0] * magnitudes[:, 1])
            mels.append(self._product(magnitudes))
            cosines.append((shared + _INAUDIBLE) / (most + _INAUDIBLE))
        return torch.cat(mels, 2), torch.cat(cosines, 1)

    def _spectra(self, wavs: Tensor) -> Iterator[Tensor]:
        """Yield the spectra of some frames at a time, complex (rows, some frames, bins)."""
        # The window is in the middle of the FFT, as in `torch.stft`. Its position does not change magnitudes but the rounding
        # error, which is all there is beside a loud pure tone and shows in the original's images.
        frames = 1 + wavs.shape[1] // self._hop_length
        self._window = self._window.to(wavs.device)
        if not kernels.on_host(wavs):
            width, edge = len(self._window), self._n_fft // 2
            margin = (self._n_fft - width) // 2
            padded = F.pad(wavs[:, None], (edge, edge), mode="reflect")[:, 0, margin:]
            framed = padded.unfold(1, width, self._hop_length)[:, :frames] * self._window
            yield torch.fft.rfft(F.pad(framed, (margin, self._n_fft - width - margin)))
            return
        at_once = min(_FRAMES_AT_ONCE, frames)
        framed = torch.empty(len(wavs), at_once, self._n_fft)
        if len(self._window) < self._n_fft:
            framed.zero_()
        for first in range(0, frames, at_once):
            some = min(at_once, frames - first)
            window_frames(wavs, self._window, self._hop_length, first, framed[:, :some])
            yield torch.fft.rfft(framed[:, :some])


_CANCELLED_DB = 12.0


def sound_warnings(wav: np.ndarray, rate_hz: int, config: SpectrogramConfig) -> list[str]:
    """Return what a codec loses of a sound beyond its usual error, one warning each.

    Args:
        wav: (channels, samples).
        rate_hz: Its sample rate.
        config: The codec.
    """
    warnings = []
    duration_s, window_s = wav.shape[1] / rate_hz, config.win_length / config.rate_hz
    if duration_s < window_s:
        warnings.append(f"lasts {duration_s:.3f} s, less than one window ({window_s:.3f} s); silence is added")
    if rate_hz / 2 < 0.9 * config.f_max_hz:
        warnings.append(
            f"at {rate_hz} Hz holds nothing above {rate_hz / 2000:g} kHz; the image goes to {config.f_max_hz / 1000:g} kHz"
        )
    if len(wav) > 2 and config.channels is not Channels.mono:
        warnings.append(f"has {len(wav)} channels, of which the first two are kept; mix it down to stereo to keep all")
    if len(wav) > 1 and config.channels is Channels.mono:
        mixed, apart = (float(np.square(part, dtype=np.float64).mean()) for part in (wav.mean(0), wav))
        if apart > 0 and 10 * np.log10(max(mixed / apart, 1e-12)) < -_CANCELLED_DB:
            warnings.append(
                "its channels cancel each other in the mono mix; use channels=stereo, or invert one of them"
            )
    if float(np.abs(wav).max(initial=0)) > 1.001:
        warnings.append(
            f"has peaks of {float(np.abs(wav).max()):.2f}, beyond full scale; they are kept, but a player clips them"
        )
    return warnings


def clipping_warnings(images: Sequence[np.ndarray], config: SpectrogramConfig) -> list[str]:
    """Return a warning if parts of a sound were louder than black, where an absolute scale clips.

    Args:
        images: What was encoded, uint8 (n_mels, width) or (n_mels, width, 3).
        config: The codec.
    """
    if config.scale is not Scale.absolute:
        return []
    # The magnitudes are in the first two of three colours with stereo_phase, in the last two with stereo.
    first = 0 if config.channels is Channels.stereo_phase else 1
    planes = [image if image.ndim == 2 else image[..., first : first + 2].min(2) for image in images]
    cut = sum(int((plane == 0).any(0).sum()) for plane in planes)
    if not cut:
        return []
    total = sum(plane.shape[1] for plane in planes)
    return [
        f"{cut} of {total} columns reach black, the loudest that '{config.name}' draws; turn the sound down to keep them"
    ]


# --- mel magnitudes and pixels ---------------------------------------------------------------------------------------

_FOURTH_ROOT = 0.25


@dataclasses.dataclass(frozen=True)
class Planes:
    """The content of images.

    Attributes:
        intensity: 0 for white to 1 for black, (clips, channels, frames, n_mels), the lowest band first.
        cosine: Cosine of the phase between left and right, (clips, frames, n_mels); None where the images have none.
    """

    intensity: Tensor
    cosine: Tensor | None


def draw_images(mels: Tensor, cosine: Tensor | None, config: SpectrogramConfig) -> tuple[Tensor, Tensor]:
    """Draw mel magnitudes as images: pixel = 255 - 255 (magnitude / reference) ** power.

    Args:
        mels: (clips, channels, frames, n_mels).
        cosine: Cosine of the phase between the channels, (clips, frames, n_mels), with `Channels.stereo_phase`.
        config: The codec's parameters.

    Returns:
        Images, uint8 (clips, n_mels, frames) or (clips, n_mels, frames, 3), and the magnitudes of black, (clips,), 0 for
        digital silence under a scale per image.
    """
    maxima = mels.amax((1, 2, 3))
    if not bool(torch.isfinite(maxima).all()):
        raise InputError("the sound holds samples that are not numbers (NaN or infinite); fix or leave out the file")
    if config.scale is Scale.absolute:
        maxima = torch.full_like(maxima, config.reference_value)
    # Digital silence is divided by one, not by zero, and becomes white.
    black = torch.where(maxima > 0, maxima, torch.ones_like(maxima))[:, None, None, None]
    if config.channels is Channels.mono and config.power == _FOURTH_ROOT and kernels.on_host(mels):
        images = torch.empty(len(mels), mels.shape[3], mels.shape[2], dtype=torch.uint8)
        _draw_grey(mels[:, 0].numpy(), black.view(-1).numpy(), config.rounding is Rounding.nearest, images.numpy())
        return images, maxima
    levels = 255 - _power(mels / black, config.power) * 255
    planes = list(_as_uint8(levels, config).unbind(1))
    if config.channels is Channels.mono:
        return planes[0].mT.flip(1).contiguous(), maxima
    if cosine is None:
        planes.insert(0, torch.zeros_like(planes[0]))
    else:
        planes.append(_as_uint8((1 + cosine) * 127.5, config))
    return torch.stack([plane.mT.flip(1) for plane in planes], -1), maxima


def read_planes(images: Tensor, config: SpectrogramConfig) -> Planes:
    """Read images of any width as `draw_images` makes them, or as a model does, with unequal colours and any levels.

    The colours of a mono image are averaged; a grey image for a stereo codec is both channels, in phase.

    Args:
        images: uint8, or floats from 0 to 1 that are clipped to that range, (clips, n_mels, width) or
            (clips, n_mels, width, 3).
        config: The codec's parameters.

    Raises:
        InputError: If the images do not have the height or kind that the codec makes.
    """
    shape = "x".join(str(size) for size in images.shape[2:0:-1])
    coloured = images.ndim == 4 and images.shape[3] == 3
    if not (images.ndim == 3 or coloured) or images.shape[1] != config.n_mels or images.shape[2] < 2:
        raise InputError(
            f"an image of {shape} px does not fit '{config.name}', which is {config.n_mels} px high; name its preset"
        )
    if images.dtype == torch.uint8:
        levels = images.float() / 255
    elif images.is_floating_point():
        levels = images.float()
    else:
        raise InputError(
            f"an image of {images.dtype} has no known white level; give uint8 levels, or floats from 0 to 1"
        )
    if not bool(torch.isfinite(levels).all()):
        raise InputError("the image holds values that are not numbers (NaN or infinite)")
    levels = levels.clamp(0, 1).flip(1).transpose(1, 2)  # (clips, frames, n_mels[, 3])
    return _planes(levels, config.channels)


def as_tensor(image: np.ndarray | PIL.Image.Image | Tensor) -> Tensor:
    """Return one image as a tensor, (height, width) or (height, width, 3); transparency and palettes become colours."""
    if isinstance(image, PIL.Image.Image):
        image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    if isinstance(image, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(image) if image.flags.writeable else image.copy())
    return image


def _planes(levels: Tensor, channels: Channels) -> Planes:
    grey = levels.ndim == 3
    if channels is Channels.mono:
        return Planes(1 - (levels if grey else levels.mean(3))[:, None], None)
    if grey:
        intensity = 1 - levels[:, None].expand(-1, 2, -1, -1)
        return Planes(intensity, torch.ones_like(levels) if channels is Channels.stereo_phase else None)
    planes = levels.movedim(3, 1)
    if channels is Channels.stereo_phase:
        return Planes(1 - planes[:, :2], 2 * planes[:, 2] - 1)
    return Planes(1 - planes[:, 1:], None)


def _as_uint8(levels: Tensor, config: SpectrogramConfig) -> Tensor:
    if config.rounding is Rounding.nearest:
        levels = levels.round()
    return levels.clamp(0, 255).to(torch.uint8)


def _power(values: Tensor, exponent: float) -> Tensor:
    """Raise to a power; a fourth root by two square roots, which are exact to the last bit on any device."""
    return values.sqrt().sqrt() if exponent == _FOURTH_ROOT else values.pow(exponent)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _draw_grey(mels: Any, black: Any, nearest: bool, images: Any) -> None:
    """Draw mono images with the fourth root, as `draw_images` does, in one loop: mels (clips, frames, bands)."""
    bands = mels.shape[2]
    for clip in range(len(mels)):
        for frame in range(mels.shape[1]):
            for band in range(bands):
                share = np.sqrt(np.sqrt(mels[clip, frame, band] / black[clip]))
                level = max(np.float32(255) - share * np.float32(255), np.float32(0))
                images[clip, bands - 1 - band, frame] = np.uint8(np.rint(level) if nearest else level)
