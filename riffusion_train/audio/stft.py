"""The short-time Fourier transforms: the mel spectrogram of the encoder, and the decoder's transform with its inverse."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from riffusion_train.audio import host
from riffusion_train.audio.bands import BandedProduct
from riffusion_train.audio.framing import MelBands, window_frames
from riffusion_train.audio.magnitude import magnitude

_FRAMES_AT_ONCE = 128
"""Frames that the encoder works on at a time on the CPU: fewer take longer to call than the cache gives, more take room."""


_INAUDIBLE = 1e6
"""Product of two mel magnitudes of 16-bit samples below which the phase between the channels is of no account."""


class MelAnalysis:
    """Mel magnitudes of a sound: centred frames, reflection at the ends, a periodic Hann window, magnitudes, mel filters.

    The values are those of `torch.stft` and a matrix product but for the order of the product's sums. Only the frequencies
    below the top band are looked at, and some frames at a time.

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
        if host.on_host(wavs):
            return torch.cat([self._bands.of_magnitudes(spectra) for spectra in self._spectra(wavs)], 1)
        return torch.cat([self._product(magnitude(spectra)) for spectra in self._spectra(wavs)], 1)

    def stereo(self, wavs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mel magnitudes of two channels and the cosine of the phase between them.

        The cosine of a band is that of its frequencies weighted by both magnitudes. Where there is nothing to hear it goes
        to 1.

        Args:
            wavs: (clips, 2, samples), longer than half an FFT.

        Returns:
            (clips, 2, frames, n_mels) and (clips, frames, n_mels).
        """
        mels, cosines = [], []
        for spectrum in self._spectra(wavs.flatten(0, 1)):
            pair = spectrum[..., : self._product.rows_used].unflatten(0, (-1, 2))
            found = magnitude(pair)
            left, right = pair.unbind(1)
            shared = self._product(left.real * right.real + left.imag * right.imag)
            most = self._product(found[:, 0] * found[:, 1])
            mels.append(self._product(found))
            cosines.append((shared + _INAUDIBLE) / (most + _INAUDIBLE))
        return torch.cat(mels, 2), torch.cat(cosines, 1)

    def _spectra(self, wavs: Tensor) -> Iterator[Tensor]:
        """Yield the spectra of some frames at a time, complex (rows, some frames, bins)."""
        # The window stands in the middle of the FFT, where `torch.stft` puts it. Magnitudes do not ask where it stands, but
        # the rounding does: beside a loud pure tone it is all there is, and the original's pictures show it.
        frames = 1 + wavs.shape[1] // self._hop_length
        self._window = self._window.to(wavs.device)
        if not host.on_host(wavs):
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


class WindowedFrames:
    """Frames under a periodic Hann window, padded to whole hops, so that overlap-add is a sum of shifted blocks.

    Args:
        win_length: Length of the window in samples.
        hop_length: Samples between frames.
        n_fft: Length of the FFT in samples.
        device: Where the signals lie.
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
    """STFT of a signal that carries half a window of margin at either end.

    Column t of a spectrogram (..., frames, bins) is centred on sample `t * hop_length` of the sound. The margins are free:
    the decoder may put there what the columns at the edges ask for, as the analysis saw a reflection there. Phases refer
    to the first sample of the frame.
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
            seed: Seed of the phase where there is nothing to hear.
            known: Numbers of the first frames whose phase is known, complex (fewer frames, bins).
        """
        from riffusion_train.audio.phase import heap_integrated_phase  # numba takes a second to load

        return heap_integrated_phase(magnitudes, self.win_length, self.hop_length, self.n_fft, seed, known=known)

    def signal_length(self, frames: int) -> int:
        """Return the number of samples, margins included, of a signal of `frames` columns."""
        return (frames + self.blocks - 1) * self.hop_length

    def _inverse_weight(self, frames: int) -> Tensor:
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
