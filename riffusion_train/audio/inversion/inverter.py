"""From mel magnitudes back to sound: heap-integrated phase with fast Griffin-Lim, or the original's Griffin-Lim."""

import dataclasses
import math

import torch
import torchaudio.transforms
from torch import Tensor

from riffusion_train.audio.inversion.kernels import BandedProduct, RichardsonLucy, ahead_of, magnitude, project
from riffusion_train.audio.inversion.stft import CircularStft, DecodingStft
from riffusion_train.config.sample import Inverter, Quality
from riffusion_train.config.spectrogram import SpectrogramConfig

_MOMENTUM = 0.99
"""Momentum of fast Griffin-Lim; its share m / (1 + m) follows torchaudio's convention."""


@dataclasses.dataclass(frozen=True)
class Iterations:
    """How many iterations each step of the inversion takes; the fine ones are mel-domain ones with a doubled FFT."""

    mel_iterations: int
    phase_iterations: int
    mel_phase_iterations: int
    fine_iterations: int


# Iterations of mel inversion, of the phase alone, of phase and mels, and of these on the finer grid. Between two of the
# decoder's frequencies a magnitude need not run in a straight line, as the coarse grid takes it; the finer grid mends that.
# The best quality works on the finer grid throughout.
ITERATIONS = {
    Inverter.pghi: {
        Quality.draft: Iterations(5, 4, 4, 0),
        Quality.normal: Iterations(8, 8, 8, 6),
        Quality.best: Iterations(15, 8, 80, 0),
    },
    # A random start has further to go.
    Inverter.fast_griffin_lim: {
        Quality.draft: Iterations(5, 12, 4, 0),
        Quality.normal: Iterations(10, 32, 8, 6),
        Quality.best: Iterations(15, 64, 80, 0),
    },
}
# Where a window spans many columns, each sees the same sound over again. That settles the magnitudes inside the bands from the
# first round on, and rounds that hold on to the guess are wasted: nearly so with a fourfold overlap, wholly with the tenfold
# one of riffusion_v1.
_OVERLAPPING_ITERATIONS = {
    4: {Quality.normal: Iterations(8, 1, 26, 10)},
    8: {Quality.draft: Iterations(4, 0, 4, 0), Quality.normal: Iterations(8, 0, 16, 4)},
}


def iterations_of(method: Inverter, quality: Quality, overlap: float) -> Iterations:
    """Return how much work a quality is, where a window spans `overlap` columns."""
    effort = ITERATIONS[method][quality]
    if method is Inverter.pghi:
        for least, efforts in _OVERLAPPING_ITERATIONS.items():
            if overlap >= least:
                effort = efforts.get(quality, effort)
    return effort


@dataclasses.dataclass(frozen=True)
class PreviousChunk:
    """The sound of an earlier piece, which the next one goes on with.

    Attributes:
        signal: The sound from the first sample of column 0's frame, (clips, channels, samples).
        fade: (samples,), 1 where the earlier sound stands, falling to 0 where the new one has taken over.
        columns: Columns at the front whose phase the earlier sound gives.
    """

    signal: Tensor
    fade: Tensor
    columns: int

    def hold(self, signal: Tensor) -> Tensor:
        """Return `signal` with the past put back into its front."""
        length = len(self.fade)
        front = torch.lerp(signal[..., :length], self.signal, self.fade)
        return torch.cat([front, signal[..., length:]], -1)


class MelInverter:
    """Finds sounds whose mel spectrograms are the given ones.

    Args:
        stft: The transform on whose grid the sound is rebuilt; a circular one makes loops.
        filters: Mel filters on that grid, (bins, n_mels).
        finer: The same with a larger FFT, for the last iterations.
    """

    def __init__(self, stft: DecodingStft | CircularStft, filters: Tensor, finer: "MelInverter | None" = None) -> None:
        self.stft = stft
        self.finer = finer
        self._band_weight = filters.sum(0) + 1e-9
        self._fit = RichardsonLucy(filters)
        self._spread = BandedProduct(self._fit.spread, columns=64)

    def invert(
        self,
        mels: Tensor,
        effort: Iterations,
        seed: int,
        *,
        method: Inverter = Inverter.pghi,
        cosine: Tensor | None = None,
        past: PreviousChunk | None = None,
    ) -> Tensor:
        """Return the sounds, with the margins of `stft`, (clips, channels, samples).

        Channels start from one common phase, which keeps their inter-channel coherence and a clean mono sum.

        Args:
            mels: Mel magnitudes, (clips, channels, frames, n_mels), no clip all zero.
            effort: Number of iterations of each step.
            seed: Seed of the phase where there is nothing to hear or, with `fast_griffin_lim`, everywhere.
            method: Where the first phase comes from.
            cosine: Cosine of the phase between the two channels, (clips, frames, n_mels), which is held on to.
            past: The sound to go on with.
        """
        magnitudes = self.magnitudes(mels, effort.mel_iterations)
        known = None if past is None else self.stft.forward(past.signal, past.columns)
        phasors = self._first_phase(magnitudes.sum(1), seed, method, None if known is None else known.sum(1))
        shift = self._shift(cosine)
        if shift is None:
            spectrum = phasors[:, None] * magnitudes
        else:
            half = torch.complex(((1 + shift) / 2).sqrt(), ((1 - shift) / 2).sqrt())
            spectrum = torch.stack([phasors * half, phasors * half.conj()], 1) * magnitudes
        if known is not None:
            spectrum[..., : known.shape[-2], :] = known
        steps = effort.phase_iterations, effort.mel_phase_iterations
        sound = self._refine(mels, magnitudes, spectrum, shift, past, *steps)
        if self.finer is None or not effort.fine_iterations:
            return sound
        return self.finer.refine(mels, sound, effort.fine_iterations, cosine, past)

    def refine(
        self, mels: Tensor, sound: Tensor, iterations: int, cosine: Tensor | None, past: PreviousChunk | None
    ) -> Tensor:
        """Return a sound nearer to the mel magnitudes than `sound` is; arguments as of `invert`."""
        spectrum = self.stft.forward(sound, mels.shape[-2])
        return self._refine(mels, magnitude(spectrum), spectrum, self._shift(cosine), past, 0, iterations)

    def _shift(self, cosine: Tensor | None) -> Tensor | None:
        return None if cosine is None else self._spread(cosine).clamp(-1, 1)

    def magnitudes(self, mels: Tensor, iterations: int) -> Tensor:
        """Return non-negative magnitudes (..., frames, bins) whose mel magnitudes are nearest to `mels`.

        Nearest in Kullback-Leibler divergence, by Richardson-Lucy iterations (Richardson 1972, Lucy 1974; the
        multiplicative update of Lee and Seung 2001 with one factor fixed).

        Args:
            mels: (..., frames, n_mels).
            iterations: Number of iterations.
        """
        self._band_weight = self._band_weight.to(mels.device)
        guess = self._spread(mels / self._band_weight)
        tiny = _tiny(mels, 1e-8)
        return self._fit(guess, mels + tiny, tiny, iterations)

    def _first_phase(self, magnitudes: Tensor, seed: int, method: Inverter, known: Tensor | None) -> Tensor:
        """Return complex numbers of magnitude one, (clips, frames, bins)."""
        if method is Inverter.fast_griffin_lim:
            generator = torch.Generator().manual_seed(seed)
            angle = 2 * math.pi * torch.rand(magnitudes.shape[1:], generator=generator)
            return torch.polar(torch.ones_like(angle), angle).to(magnitudes.device).expand_as(magnitudes)
        stft = self.stft
        phasors = [
            stft.first_phase(clip.cpu(), seed, None if known is None else known[row].cpu())
            for row, clip in enumerate(magnitudes)
        ]
        return torch.stack(phasors).to(magnitudes.device)

    def _refine(
        self,
        mels: Tensor,
        magnitudes: Tensor,
        spectrum: Tensor,
        shift: Tensor | None,
        past: PreviousChunk | None,
        phase_iterations: int,
        mel_phase_iterations: int,
    ) -> Tensor:
        """Run fast Griffin-Lim (Perraudin, Balazs, Søndergaard 2013), at the end with magnitudes that may move inside bands."""
        share = _MOMENTUM / (1 + _MOMENTUM)
        tiny = _tiny(mels, 1e-7)
        wanted = mels + tiny
        previous: Tensor | None = None
        for iteration in range(phase_iterations + mel_phase_iterations):
            if iteration == phase_iterations:
                previous = None  # another projection starts: the old direction says nothing about it
            rebuilt = self.stft.forward(self._sound(spectrum, past), mels.shape[-2])
            if iteration >= phase_iterations:
                magnitudes = self._fit(magnitude(rebuilt), wanted, tiny)
            if shift is None:
                spectrum = project(rebuilt, previous, share, magnitudes)
            else:
                spectrum = _project_pair(ahead_of(rebuilt, previous, share), magnitudes, shift)
            previous = rebuilt
        return self._sound(spectrum, past)

    def _sound(self, spectrum: Tensor, past: PreviousChunk | None) -> Tensor:
        signal = self.stft.inverse(spectrum)
        return signal if past is None else past.hold(signal)


def _project_pair(spectrum: Tensor, magnitudes: Tensor, shift: Tensor) -> Tensor:
    """Return the numbers nearest to `spectrum` that have the magnitudes and the cosine between the channels.

    The sign of the phase between the channels is free, and follows `spectrum`; one common turn remains, for which the
    nearest pair has a closed form.

    Args:
        spectrum: Complex (clips, 2, frames, bins).
        magnitudes: The magnitudes it shall have.
        shift: Cosine of the phase from the second channel to the first, (clips, frames, bins), in [-1, 1].
    """
    left, right = spectrum.unbind(1)
    sine = (1 - shift.square()).sqrt()
    turned_left = left.imag * right.real - left.real * right.imag >= 0  # the sign of Im(left conj(right))
    turn = torch.complex(shift, torch.where(turned_left, sine, -sine))
    common = left * magnitudes[:, 0] + right * magnitudes[:, 1] * turn
    common = common / magnitude(common).add_(1e-16)
    return torch.stack([common, common * turn.conj()], 1) * magnitudes


def _tiny(mels: Tensor, relative: float) -> Tensor:
    """Return a magnitude for each channel that keeps quotients finite, also in one that is silent throughout."""
    return (relative * mels.amax((-2, -1), keepdim=True)).clamp(min=1e-12)


GRIFFIN_LIM_ITERATIONS = {Quality.draft: 16, Quality.normal: 32, Quality.best: 64}
"""Iterations of Griffin-Lim; 32 are the original Riffusion's."""


class GriffinLimInverter:
    """Inverts mel magnitudes as torchaudio does: a reference to compare with and to agree with, not the best sound.

    The phase starts at random, and each channel has its own. The whole spectrogram is taken at once, so memory grows with
    its width.

    Args:
        config: The codec's parameters.
        filters: Its mel filters, (n_fft // 2 + 1, n_mels).
    """

    def __init__(self, config: SpectrogramConfig, filters: Tensor) -> None:
        self._config = config
        # The narrowest bands of some presets see no frequency of their own, which "gels" does not stand.
        self._to_linear = torchaudio.transforms.InverseMelScale(
            config.n_fft // 2 + 1, config.n_mels, config.rate_hz, config.f_min_hz, config.f_max_hz, driver="gelsd"
        )
        self._to_linear.fb = filters

    def invert(self, mels: Tensor, quality: Quality, seed: int) -> Tensor:
        """Return sounds at `rate_hz`, (clips, channels, (frames - 1) * hop_length).

        Args:
            mels: Mel magnitudes, (clips, channels, frames, n_mels). Their device does the work but for the least squares,
                which the host does.
            quality: Sets the number of iterations.
            seed: Seed of the random phase, drawn anew for each clip.
        """
        config = self._config
        linear = self._to_linear(mels.mT.cpu().contiguous()).to(mels.device)
        griffin_lim = torchaudio.transforms.GriffinLim(
            config.n_fft, GRIFFIN_LIM_ITERATIONS[quality], config.win_length, config.hop_length, power=1.0
        ).to(mels.device)
        wavs = []
        with torch.random.fork_rng([mels.device] if mels.device.type == "cuda" else []):
            for clip in linear:
                torch.manual_seed(seed)
                wavs.append(griffin_lim(clip))
        return torch.stack(wavs)
