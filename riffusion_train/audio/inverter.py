"""From mel magnitudes back to sound: heap-integrated phase with fast Griffin-Lim, or the original's Griffin-Lim.

Long spectrograms are inverted in overlapping chunks, each of which continues the phase of the previous one.
"""

import dataclasses
import math

import torch
import torchaudio.transforms
from torch import Tensor

from riffusion_train.audio.kernels import BandedProduct, RichardsonLucy, ahead_of, magnitude, project
from riffusion_train.audio.stft import CircularStft, DecodingStft
from riffusion_train.config.spectrogram import Inverter, Quality, SpectrogramConfig

_MOMENTUM = 0.99
"""Momentum of fast Griffin-Lim; its share m / (1 + m) follows torchaudio's convention."""


@dataclasses.dataclass(frozen=True)
class Iterations:
    """How many iterations each step of the inversion takes.

    Attributes:
        mel_iterations: Richardson-Lucy iterations from mel magnitudes to magnitudes.
        phase_iterations: Fast Griffin-Lim with these magnitudes fixed.
        mel_phase_iterations: Fast Griffin-Lim with the mel magnitudes fixed; magnitudes may move inside the bands.
        fine_iterations: The same on a grid of at least twice the window.
    """

    mel_iterations: int
    phase_iterations: int
    mel_phase_iterations: int
    fine_iterations: int


# The coarse grid takes magnitudes between two of its frequencies to be linear, which they need not be; the finer grid
# corrects that. The best quality works on the finer grid throughout.
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
# Where a window spans many columns, neighbours see the same sound, which settles the magnitudes inside the bands from the
# first iteration on. Iterations with the guessed magnitudes fixed are then nearly wasted with a fourfold overlap, and wholly
# with the tenfold one of riffusion_v1.
_OVERLAPPING_ITERATIONS = {
    4: {Quality.normal: Iterations(8, 1, 26, 10)},
    8: {Quality.draft: Iterations(4, 0, 4, 0), Quality.normal: Iterations(8, 0, 16, 4)},
}


def iterations_of(method: Inverter, quality: Quality, overlap: float) -> Iterations:
    """Return the iterations of a quality, where a window spans `overlap` columns."""
    iterations = ITERATIONS[method][quality]
    if method is Inverter.pghi:
        for least, by_quality in _OVERLAPPING_ITERATIONS.items():
            if overlap >= least:
                iterations = by_quality.get(quality, iterations)
    return iterations


@dataclasses.dataclass(frozen=True)
class _PreviousChunk:
    """The sound of an earlier chunk, which the next one continues.

    Attributes:
        signal: The sound from the first sample of column 0's frame, (clips, channels, samples).
        fade: Weight of the earlier sound, (samples,): 1, then falling to 0 over the crossfade to the new sound.
        columns: Columns at the front whose phase is that of the earlier sound.
    """

    signal: Tensor
    fade: Tensor
    columns: int

    def hold(self, signal: Tensor) -> Tensor:
        """Return `signal` with the earlier sound crossfaded back into its front."""
        length = len(self.fade)
        front = torch.lerp(signal[..., :length], self.signal, self.fade)
        return torch.cat([front, signal[..., length:]], -1)


class MelInverter:
    """Finds sounds whose mel spectrograms are the given ones.

    In three steps: magnitudes from mel magnitudes, a first phase for them, and iterations that make the spectrogram
    consistent (that of a real sound) while it keeps the mel magnitudes.

    Args:
        stft: The transform on whose grid the sound is rebuilt; a circular one makes loops.
        filters: Mel filters on that grid, (bins, n_mels).
        finer: An inverter with a larger FFT, for the last iterations.
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
        iterations: Iterations,
        seed: int,
        *,
        method: Inverter = Inverter.pghi,
        cosine: Tensor | None = None,
        previous: _PreviousChunk | None = None,
    ) -> Tensor:
        """Return the sounds, with the margins of `stft`, (clips, channels, samples).

        Channels start from one common phase, which keeps the coherence between them and a clean mono sum.

        Args:
            mels: Mel magnitudes, (clips, channels, frames, n_mels), no clip all zero.
            iterations: Number of iterations of each step.
            seed: Seed of the phase where the sound is next to silent or, with `fast_griffin_lim`, everywhere.
            method: Where the first phase comes from.
            cosine: Cosine of the phase between the two channels, (clips, frames, n_mels), which is kept.
            previous: The chunk to continue.
        """
        # Step 1: magnitudes, (clips, channels, frames, bins).
        magnitudes = self.magnitudes(mels, iterations.mel_iterations)
        known = None if previous is None else self.stft.forward(previous.signal, previous.columns)
        # Step 2: one phase for all channels, (clips, frames, bins), found on the sum of their magnitudes.
        phasors = self._first_phase(magnitudes.sum(1), seed, method, None if known is None else known.sum(1))
        shift = self._shift(cosine)
        if shift is None:
            spectrum = phasors[:, None] * magnitudes
        else:
            # Half of the phase between the channels goes to either: cos(x / 2) = sqrt((1 + cos x) / 2).
            half = torch.complex(((1 + shift) / 2).sqrt(), ((1 - shift) / 2).sqrt())
            spectrum = torch.stack([phasors * half, phasors * half.conj()], 1) * magnitudes
        if known is not None:
            spectrum[..., : known.shape[-2], :] = known
        # Step 3: consistency, at the end on the finer grid.
        counts = iterations.phase_iterations, iterations.mel_phase_iterations
        sound = self._refine(mels, magnitudes, spectrum, shift, previous, *counts)
        if self.finer is None or not iterations.fine_iterations:
            return sound
        return self.finer.refine(mels, sound, iterations.fine_iterations, cosine, previous)

    def refine(
        self, mels: Tensor, sound: Tensor, iterations: int, cosine: Tensor | None, previous: _PreviousChunk | None
    ) -> Tensor:
        """Return a sound nearer to the mel magnitudes than `sound` is; arguments as of `invert`."""
        spectrum = self.stft.forward(sound, mels.shape[-2])
        return self._refine(mels, magnitude(spectrum), spectrum, self._shift(cosine), previous, 0, iterations)

    def _shift(self, cosine: Tensor | None) -> Tensor | None:
        """Spread the cosine between the channels from bands to bins, (clips, frames, n_mels) -> (clips, frames, bins)."""
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
        guess = self._spread(mels / self._band_weight)  # each band's mean magnitude, spread over its bins
        tiny = _tiny(mels, 1e-8)
        return self._fit(guess, mels + tiny, tiny, iterations)

    def _first_phase(self, magnitudes: Tensor, seed: int, method: Inverter, known: Tensor | None) -> Tensor:
        """Return complex numbers of magnitude one, (clips, frames, bins), for magnitudes of that shape."""
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
        previous: _PreviousChunk | None,
        phase_iterations: int,
        mel_phase_iterations: int,
    ) -> Tensor:
        """Run fast Griffin-Lim (Perraudin, Balazs, Søndergaard, A fast Griffin-Lim algorithm, WASPAA 2013, algorithm 2).

        Each iteration projects onto the consistent spectrograms, P_C1 of the paper, takes a step ahead in the direction
        of the last change, and projects onto the spectrograms with the given magnitudes, P_C2. At the end the second set
        is that of all spectrograms with the given mel magnitudes: magnitudes may move inside the bands.

        Args:
            mels: Mel magnitudes, (clips, channels, frames, n_mels).
            magnitudes: Magnitudes to start from, (clips, channels, frames, bins).
            spectrum: Spectrogram to start from, complex (clips, channels, frames, bins).
            shift: Cosine of the phase between the channels, (clips, frames, bins).
            previous: The chunk to continue.
            phase_iterations: Iterations with `magnitudes` fixed.
            mel_phase_iterations: Iterations with `mels` fixed.
        """
        share = _MOMENTUM / (1 + _MOMENTUM)
        tiny = _tiny(mels, 1e-7)  # (clips, channels, 1, 1)
        target_mels = mels + tiny
        before: Tensor | None = None  # the last consistent spectrogram
        for iteration in range(phase_iterations + mel_phase_iterations):
            if iteration == phase_iterations:
                before = None  # the second set changes: the last direction says nothing about it
            # P_C1: to sound and back, (clips, channels, frames, bins).
            rebuilt = self.stft.forward(self._sound(spectrum, previous), mels.shape[-2])
            if iteration >= phase_iterations:
                # The magnitudes with these mels that are nearest to those of the sound: one multiplicative step.
                magnitudes = self._fit(magnitude(rebuilt), target_mels, tiny)
            # The step ahead, and P_C2: its phase with the given magnitudes.
            if shift is None:
                spectrum = project(rebuilt, before, share, magnitudes)
            else:
                spectrum = _project_pair(ahead_of(rebuilt, before, share), magnitudes, shift)
            before = rebuilt
        return self._sound(spectrum, previous)

    def _sound(self, spectrum: Tensor, previous: _PreviousChunk | None) -> Tensor:
        """Return the signals of a spectrogram, (clips, channels, samples); their front is that of the previous chunk."""
        signal = self.stft.inverse(spectrum)
        return signal if previous is None else previous.hold(signal)


def _project_pair(spectrum: Tensor, magnitudes: Tensor, shift: Tensor) -> Tensor:
    """Return the numbers nearest to `spectrum` that have the magnitudes and the cosine between the channels.

    The sign of the phase between the channels is free, and follows `spectrum`; one common rotation remains, for which the
    nearest pair has a closed form.

    Args:
        spectrum: Complex (clips, 2, frames, bins).
        magnitudes: The magnitudes of the result, (clips, 2, frames, bins).
        shift: Cosine of the phase from the second channel to the first, (clips, frames, bins), in [-1, 1].
    """
    left, right = spectrum.unbind(1)
    sine = (1 - shift.square()).sqrt()
    left_leads = left.imag * right.real - left.real * right.imag >= 0  # the sign of Im(left conj(right))
    turn = torch.complex(shift, torch.where(left_leads, sine, -sine))  # from the second channel to the first
    # Of all pairs (m0 u, m1 u conj(turn)) with |u| = 1 the nearest has u in the direction of m0 left + m1 right turn.
    common = left * magnitudes[:, 0] + right * magnitudes[:, 1] * turn
    common = common / magnitude(common).add_(1e-16)
    return torch.stack([common, common * turn.conj()], 1) * magnitudes


def _tiny(mels: Tensor, relative: float) -> Tensor:
    """Return a magnitude for each channel that keeps quotients finite, also in one that is silent throughout."""
    return (relative * mels.amax((-2, -1), keepdim=True)).clamp(min=1e-12)


GRIFFIN_LIM_ITERATIONS = {Quality.draft: 16, Quality.normal: 32, Quality.best: 64}
"""Iterations of Griffin-Lim; 32 are the original Riffusion's."""


class GriffinLimInverter:
    """Inverts mel magnitudes as torchaudio does: a reference to compare with, not the best sound.

    The phase starts at random, and each channel has its own. The whole spectrogram is inverted at once, so memory grows
    with its width.

    Args:
        config: The codec's parameters.
        filters: Its mel filters, (n_fft // 2 + 1, n_mels).
    """

    def __init__(self, config: SpectrogramConfig, filters: Tensor) -> None:
        self._config = config
        # The narrowest bands of some presets hold no frequency, so the filters are rank-deficient, which "gels" cannot solve.
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
            seed: Seed of the random phase, the same for each clip.
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


# --- long spectrograms -----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Tail:
    """The end of what is inverted so far, from `ChunkedInverter.context` columns before the first unfinished one.

    Attributes:
        mels: Mel magnitudes of these columns, (clips, channels, frames, n_mels).
        cosine: Cosine between the channels, (clips, frames, n_mels).
        signal: Their sound with margins, (clips, channels, samples).
        columns: Finished columns at the front.
    """

    mels: Tensor
    cosine: Tensor | None
    signal: Tensor
    columns: int


class ChunkedInverter:
    """Inverts one spectrogram that arrives in chunks of columns; the output is one continuous sound.

    A chunk is inverted together with the two windows before it, whose sound is held fixed, and its own last two windows
    are inverted again with the next chunk, as they have not seen what follows. In between, the earlier sound crossfades
    into the new one over half a window; the two agree, since the new one starts from the phase of the earlier.

    Args:
        inverter: Inverts a chunk.
        iterations: Number of iterations of each step.
        seed: Seed of the phase.
        method: Where the first phase comes from.
    """

    def __init__(self, inverter: MelInverter, iterations: Iterations, seed: int, method: Inverter) -> None:
        self.inverter = inverter
        self._iterations = iterations
        self._seed = seed
        self._method = method
        self._tail: _Tail | None = None
        self.context = 2 * inverter.stft.blocks
        """Columns before and after it that a chunk needs."""

    def resume(self, mels: Tensor, cosine: Tensor | None, signal: Tensor) -> None:
        """Go on from a sound that is known already, as if it had been inverted here.

        Args:
            mels: Mel magnitudes of its last columns, at least `context` of them, (clips, channels, frames, n_mels).
            cosine: Cosine between its channels in these columns, (clips, frames, n_mels).
            signal: The sound of these columns with the margin before them, at the level of `mels`, and at least half a window
                of how it would go on, into which the new sound fades, (clips, channels, samples).
        """
        self._tail = _Tail(mels, cosine, signal, mels.shape[2])

    def push(self, mels: Tensor, cosine: Tensor | None = None, *, last: bool = False) -> Tensor:
        """Return the samples that are finished with these columns; the first push starts at the first sample.

        Args:
            mels: (clips, channels, frames, n_mels), more frames than `context` unless `last`.
            cosine: (clips, frames, n_mels) for two channels with a known phase between them.
            last: Whether nothing follows, so that everything is finished now.

        Returns:
            (clips, channels, samples): in total `hop_length` for each column but the first, and a rest of at most a window.
        """
        tail = self._tail
        previous = None
        begun = 0  # finished columns at the front of this chunk
        if tail is not None:
            mels = torch.cat([tail.mels, mels], 2)
            cosine = None if cosine is None or tail.cosine is None else torch.cat([tail.cosine, cosine], 1)
            previous = _PreviousChunk(tail.signal, self._fade(tail), tail.columns)
            begun = tail.columns
        signal = self._invert(mels, cosine, previous)
        stft = self.inverter.stft
        frames = mels.shape[2]
        if last:
            self._tail = None
            return signal[..., stft.margin + begun * stft.hop_length :]
        # The last `context` columns wait for what follows; as many finished ones stay for the next chunk's start.
        done = frames - self.context
        kept = max(done - self.context, 0)
        self._tail = _Tail(
            mels[:, :, kept:],
            None if cosine is None else cosine[:, kept:],
            signal[..., kept * stft.hop_length :],
            done - kept,
        )
        self._seed += 1  # or every chunk would have the same random phase where it is next to silent
        return signal[..., stft.margin + begun * stft.hop_length : stft.margin + done * stft.hop_length]

    def _invert(self, mels: Tensor, cosine: Tensor | None, previous: _PreviousChunk | None) -> Tensor:
        if not bool(mels.any()):  # silence has no phase
            silence = mels.new_zeros(*mels.shape[:2], self.inverter.stft.signal_length(mels.shape[2]))
            return silence if previous is None else previous.hold(silence)
        return self.inverter.invert(
            mels, self._iterations, self._seed, method=self._method, cosine=cosine, previous=previous
        )

    def _fade(self, tail: _Tail) -> Tensor:
        """Return (samples,): 1 where the earlier sound is finished, falling to 0 over the next half window."""
        stft = self.inverter.stft
        fade = torch.zeros(tail.signal.shape[-1])
        held = stft.margin + tail.columns * stft.hop_length
        length = stft.win_length // 2
        fade[:held] = 1
        fade[held : held + length] = torch.cos(torch.linspace(0, math.pi / 2, length)).square()
        return fade.to(tail.signal.device)
