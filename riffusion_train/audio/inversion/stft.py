"""The decoder's short-time Fourier transform and its inverse, for sounds with two ends and for loops."""

import math

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor

from riffusion_train.audio.inversion.phase import heap_integrated_phase


class WindowedFrames:
    """Frames under a periodic Hann window, padded to whole hops, so that overlap-add is a sum of shifted blocks.

    Args:
        win_length: Length of the window in samples.
        hop_length: Samples between frames.
        n_fft: Length of the FFT in samples.
        device: Device of the signals.
    """

    def __init__(self, win_length: int, hop_length: int, n_fft: int, device: torch.device | str = "cpu") -> None:
        self.win_length = win_length
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.margin = win_length // 2
        self.blocks = -(-win_length // hop_length)
        self._frame_length = self.blocks * hop_length
        window = torch.hann_window(win_length, periodic=True, dtype=torch.float64).float()
        self._window = F.pad(window, (0, self._frame_length - win_length)).to(device)

    @property
    def bins(self) -> int:
        """Number of frequencies, `n_fft // 2 + 1`."""
        return self.n_fft // 2 + 1


class DecodingStft(WindowedFrames):
    """STFT of a signal with a margin of half a window at either end.

    Column t of a spectrogram (..., frames, bins) is centred on sample `t * hop_length` of the sound. The margins are free
    to fit the columns at the edges, where the analysis saw a reflection. Phases refer to the first sample of a frame.
    """

    def __init__(self, win_length: int, hop_length: int, n_fft: int, device: torch.device | str = "cpu") -> None:
        super().__init__(win_length, hop_length, n_fft, device)
        self._weight: tuple[int, Tensor] | None = None  # of the last number of frames; iterations repeat it

    def forward(self, signal: Tensor, frames: int) -> Tensor:
        """Analyse signals with their margins, (..., samples) -> complex (..., frames, bins)."""
        framed = signal.unfold(-1, self.win_length, self.hop_length)[..., :frames, :]
        padded = signal.new_zeros(*framed.shape[:-1], self.n_fft)
        torch.mul(framed, self._window[: self.win_length], out=padded[..., : self.win_length])
        return torch.fft.rfft(padded)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Return the signals, with margins, whose transform is nearest to `spectrum` (Griffin and Lim 1984, eq. 6)."""
        framed = torch.fft.irfft(spectrum, n=self.n_fft)[..., : self._frame_length]
        framed = framed[..., : self.win_length] * self._window[: self.win_length]
        framed = (
            F.pad(framed, (0, self._frame_length - self.win_length)) if self._frame_length > self.win_length else framed
        )
        return self._overlap_add(framed) * self._inverse_weight(spectrum.shape[-2])

    def first_phase(self, magnitudes: Tensor, seed: int, known: Tensor | None = None) -> Tensor:
        """Return the phase that heap integration finds, complex numbers of magnitude one (frames, bins).

        Args:
            magnitudes: (frames, bins).
            seed: Seed of the phase where the sound is next to silent.
            known: Spectrum of the first frames, whose phase is known, complex (fewer frames, bins).
        """
        from riffusion_train.audio.inversion.phase import heap_integrated_phase  # numba takes a second to load

        return heap_integrated_phase(magnitudes, self.win_length, self.hop_length, self.n_fft, seed, known=known)

    def signal_length(self, frames: int) -> int:
        """Return the number of samples, margins included, of a signal of `frames` columns."""
        return (frames + self.blocks - 1) * self.hop_length

    def _inverse_weight(self, frames: int) -> Tensor:
        """Return 1 / (sum of the squared windows over each sample), (samples,)."""
        if self._weight is None or self._weight[0] != frames:
            weight = self._overlap_add(self._window.square().expand(frames, -1))
            self._weight = (frames, 1 / weight.clamp(min=1e-3 * float(weight.max())))
        return self._weight[1]

    def _overlap_add(self, framed: Tensor) -> Tensor:
        frames = framed.shape[-2]
        blocks = framed.unflatten(-1, (self.blocks, self.hop_length))
        signal = framed.new_zeros(*framed.shape[:-2], frames + self.blocks - 1, self.hop_length)
        for block in range(self.blocks):
            signal[..., block : block + frames, :] += blocks[..., block, :]
        return signal.flatten(-2)


_CONTEXT = 8
"""Columns beyond either end of a loop that heap integration sees."""


class CircularStft(WindowedFrames):
    """STFT of a signal that repeats, instead of `DecodingStft`.

    Column t is centred on sample `t * hop_length` of the sound; a signal begins half a window earlier, so that the phases
    refer to the first sample of a frame. A signal of n columns has n hops, without margins.
    """

    def forward(self, signal: Tensor, frames: int) -> Tensor:
        """Analyse signals, (..., frames * hop_length) -> complex (..., frames, bins)."""
        turns = -(-self.win_length // signal.shape[-1])
        wrapped = torch.cat([signal, *[signal] * turns], -1)[..., : signal.shape[-1] + self.win_length - 1]
        framed = wrapped.unfold(-1, self.win_length, self.hop_length)[..., :frames, :] * self._window[: self.win_length]
        return torch.fft.rfft(framed, n=self.n_fft)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Return the signals whose transform is nearest to `spectrum` (Griffin and Lim 1984, eq. 6), circularly."""
        framed = torch.fft.irfft(spectrum, n=self.n_fft)[..., : self.win_length] * self._window[: self.win_length]
        framed = F.pad(framed, (0, self._frame_length - self.win_length))
        frames = spectrum.shape[-2]
        weight = self._overlap_add(self._window.square().expand(frames, -1))
        return self._overlap_add(framed) / weight.clamp(min=1e-3 * float(weight.max()))

    def signal_length(self, frames: int) -> int:
        """Return the number of samples of a signal of `frames` columns."""
        return frames * self.hop_length

    def first_phase(self, magnitudes: Tensor, seed: int, known: Tensor | None = None) -> Tensor:
        """Return phases of a loop, complex numbers of magnitude one (frames, bins).

        Heap integration runs once around the loop and a little further. It comes back to the first column with another phase
        than it started with; the phases of each frequency are corrected by that error, evenly over the loop, which detunes
        it by less than half a turn per loop: a tenth of a Hertz for five seconds.

        Args:
            magnitudes: (frames, bins).
            seed: Seed of the phase where the sound is next to silent.
            known: Must be None; nothing comes before a loop.
        """
        if known is not None:
            raise ValueError("nothing comes before a loop")
        frames = len(magnitudes)
        order = torch.arange(-_CONTEXT, frames + _CONTEXT + 1) % frames
        phasors = heap_integrated_phase(magnitudes[order], self.win_length, self.hop_length, self.n_fft, seed)
        inner = phasors[_CONTEXT : _CONTEXT + frames]
        # The phase error of each frequency after one round, (bins,), taken off in proportion to the column.
        error = torch.angle(phasors[_CONTEXT + frames] * inner[0].conj())
        turned = torch.arange(frames)[:, None] / frames * error
        return inner * torch.polar(torch.ones_like(turned), -turned)

    def _overlap_add(self, framed: Tensor) -> Tensor:
        frames = framed.shape[-2]
        blocks = framed.unflatten(-1, (self.blocks, self.hop_length))
        signal = framed.new_zeros(*framed.shape[:-2], frames, self.hop_length)
        for block in range(self.blocks):
            signal += blocks[..., block, :].roll(block, -2)
        return signal.flatten(-2)


def resample_loop(wav: np.ndarray, from_hz: int, to_hz: int, hop_length: int) -> np.ndarray:
    """Change the sample rate of a loop, (channels, whole hops), by soxr, which sees the loop continue beyond both ends.

    Args:
        wav: The loop.
        from_hz: Its rate.
        to_hz: The new rate.
        hop_length: Samples of a hop at `from_hz`; a hop must be a whole number of samples at `to_hz`.
    """
    if from_hz == to_hz:
        return np.asarray(wav, np.float32)
    samples = wav.shape[1]
    context = hop_length * math.ceil(min(samples, from_hz // 4) / hop_length)
    order = np.arange(-context, samples + context) % samples
    long = soxr.resample(np.ascontiguousarray(wav[:, order].T), from_hz, to_hz, quality="HQ").T
    first, length = context * to_hz // from_hz, samples * to_hz // from_hz
    return np.ascontiguousarray(long[:, first : first + length], np.float32)


def stretch_loop(wav: np.ndarray, samples: int) -> np.ndarray:
    """Return a loop of exactly `samples` samples, (channels, n) -> (channels, samples), by its Fourier series.

    It is exact for periodic signals, and changes the pitch by the ratio of the lengths.
    """
    import scipy.signal  # type: ignore[import-untyped]

    return np.asarray(scipy.signal.resample(wav.astype(np.float64), samples, axis=1), np.float32)
