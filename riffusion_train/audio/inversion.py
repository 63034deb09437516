"""From mel magnitudes back to sound.

Four steps: magnitudes on the decoder's frequency grid by Richardson-Lucy iterations, a first phase by heap integration,
fast Griffin-Lim on fixed magnitudes, and Griffin-Lim that holds on to the mel magnitudes only.
"""

import dataclasses

import torch

from riffusion_train.audio.phase import heap_integrated_phase
from riffusion_train.audio.stft import DecodingStft

_MOMENTUM = 0.99
"""Momentum of fast Griffin-Lim; its share m / (1 + m) follows torchaudio's convention."""


@dataclasses.dataclass(frozen=True)
class Effort:
    """How many iterations each step of the inversion takes."""

    mel_iterations: int
    phase_iterations: int
    mel_phase_iterations: int


class MelInverter:
    """Finds a sound whose mel spectrogram is the given one.

    Args:
        stft: The transform on whose grid the sound is rebuilt.
        filters: Mel filters on that grid, (bins, n_mels).
    """

    def __init__(self, stft: DecodingStft, filters: torch.Tensor) -> None:
        self.stft = stft
        self.filters = filters
        self._spread = (filters / (filters.sum(1, keepdim=True) + 1e-9)).t().contiguous()  # (n_mels, bins)

    def invert(self, mels: torch.Tensor, effort: Effort, seed: int) -> torch.Tensor:
        """Return the sound, with the margins of `stft`, (channels, samples).

        Channels start from one common phase, which keeps their inter-channel coherence and a clean mono sum.

        Args:
            mels: Mel magnitudes, (channels, frames, n_mels), not all zero.
            effort: Number of iterations of each step.
            seed: Seed of the phase where there is nothing to hear.
        """
        magnitudes = [self.magnitudes(mel, effort.mel_iterations) for mel in mels]
        stft = self.stft
        phasors = heap_integrated_phase(
            torch.stack(magnitudes).sum(0), stft.win_length, stft.hop_length, stft.n_fft, seed
        )
        channels = [self._refine(mel, start, phasors, effort) for mel, start in zip(mels, magnitudes, strict=True)]
        return torch.stack(channels)

    def magnitudes(self, mel: torch.Tensor, iterations: int) -> torch.Tensor:
        """Return non-negative magnitudes (frames, bins) whose mel magnitudes are nearest to `mel`, (frames, n_mels).

        Nearest in Kullback-Leibler divergence, by Richardson-Lucy iterations (Richardson 1972, Lucy 1974; the
        multiplicative update of Lee and Seung 2001 with one factor fixed).
        """
        guess = (mel / (self.filters.sum(0) + 1e-9)) @ self._spread
        tiny = _tiny(mel, 1e-8)
        for _ in range(iterations):
            guess = guess * (((mel + tiny) / (guess @ self.filters + tiny)) @ self._spread)
        return guess

    def _refine(
        self, mel: torch.Tensor, magnitudes: torch.Tensor, phasors: torch.Tensor, effort: Effort
    ) -> torch.Tensor:
        """Run fast Griffin-Lim (Perraudin, Balazs, Søndergaard 2013), at the end with magnitudes that may move inside bands."""
        share = _MOMENTUM / (1 + _MOMENTUM)
        tiny = _tiny(mel, 1e-7)
        spectrum = phasors * magnitudes
        previous: torch.Tensor | None = None
        for iteration in range(effort.phase_iterations + effort.mel_phase_iterations):
            if iteration == effort.phase_iterations:
                previous = None  # another projection starts: the old direction says nothing about it
            rebuilt = self.stft.forward(self.stft.inverse(spectrum), len(mel))
            ahead = rebuilt if previous is None else torch.sub(rebuilt, previous, alpha=share)
            previous = rebuilt
            if iteration >= effort.phase_iterations:
                found = _absolute(rebuilt)
                magnitudes = found * (((mel + tiny) / (found @ self.filters + tiny)) @ self._spread)
            spectrum = ahead * (magnitudes / (_absolute(ahead) + 1e-16))
        return self.stft.inverse(spectrum)


def _absolute(spectrum: torch.Tensor) -> torch.Tensor:
    """Return the magnitudes; half the time of `abs`, whose care against overflow is not needed here."""
    return (spectrum.real.square() + spectrum.imag.square()).sqrt()


def _tiny(mel: torch.Tensor, relative: float) -> float:
    """Return a magnitude that keeps quotients finite, also in a channel that is silent throughout."""
    return max(relative * float(mel.max()), 1e-12)
