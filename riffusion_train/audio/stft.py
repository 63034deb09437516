"""The short-time Fourier transform on which the decoder rebuilds the phase, and its least-squares inverse."""

import torch
import torch.nn.functional as F


class DecodingStft:
    """STFT with a periodic Hann window, of a signal that carries half a window of margin at either end.

    Column t of a spectrogram (frames, bins) is centred on sample `t * hop_length` of the sound. The margins are free: the
    decoder may put there what the columns at the edges ask for, as the analysis saw a reflection there. Phases refer to the
    first sample of the frame.
    """

    def __init__(self, win_length: int, hop_length: int, n_fft: int) -> None:
        self.win_length = win_length
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.margin = win_length // 2
        # A frame is padded to whole hops, so that overlap-add is a sum of shifted blocks.
        self._blocks = -(-win_length // hop_length)
        self._frame_length = self._blocks * hop_length
        window = torch.hann_window(win_length, periodic=True, dtype=torch.float64).float()
        self._weight: tuple[int, torch.Tensor] | None = None  # of the last number of frames; iterations repeat it
        self._window = F.pad(window, (0, self._frame_length - win_length))

    @property
    def bins(self) -> int:
        """Number of frequencies, `n_fft // 2 + 1`."""
        return self.n_fft // 2 + 1

    def forward(self, signal: torch.Tensor, frames: int) -> torch.Tensor:
        """Analyse a signal with its margins, (samples,) -> complex (frames, bins)."""
        framed = signal.as_strided((frames, self.win_length), (self.hop_length, 1))
        return torch.fft.rfft(framed * self._window[: self.win_length], n=self.n_fft)

    def inverse(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Return the signal, with margins, whose transform is nearest to `spectrum` (Griffin and Lim 1984, eq. 6)."""
        framed = torch.fft.irfft(spectrum, n=self.n_fft)[:, : self._frame_length]
        framed = F.pad(framed, (0, self._frame_length - framed.shape[1])) * self._window
        return self._overlap_add(framed) * self._inverse_weight(len(spectrum))

    def without_margins(self, signal: torch.Tensor) -> torch.Tensor:
        """Cut off the margin at the front, (..., samples); what lies behind the last column stays."""
        return signal[..., self.margin :]

    def _inverse_weight(self, frames: int) -> torch.Tensor:
        if self._weight is None or self._weight[0] != frames:
            weight = self._overlap_add(self._window.square().expand(frames, -1))
            self._weight = (frames, 1 / weight.clamp(min=1e-3 * float(weight.max())))
        return self._weight[1]

    def _overlap_add(self, framed: torch.Tensor) -> torch.Tensor:
        frames = len(framed)
        blocks = framed.reshape(frames, self._blocks, self.hop_length)
        signal = torch.zeros(frames + self._blocks - 1, self.hop_length)
        for block in range(self._blocks):
            signal[block : block + frames] += blocks[:, block]
        return signal.reshape(-1)
