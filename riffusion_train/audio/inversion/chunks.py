"""Long spectrograms inverted in overlapping pieces, each going on with the phase of the last."""

import dataclasses
import math

import torch
from torch import Tensor

from riffusion_train.audio.inversion.inverter import Iterations, MelInverter, PreviousChunk
from riffusion_train.config.sample import Inverter


@dataclasses.dataclass
class _Tail:
    """The end of what is inverted so far, from `ChunkedInverter.context` columns before the first unfinished one."""

    mels: Tensor
    cosine: Tensor | None
    signal: Tensor
    columns: int  # finished ones at the front


class ChunkedInverter:
    """Inverts one spectrogram that arrives in pieces of columns; what comes out is one sound without seams.

    A piece is inverted together with two windows of the past, whose sound is held fixed, and its own last two windows
    are inverted again with the next piece, as they have not seen their future. In between, the earlier sound fades into the
    new one over half a window; the two agree, since the new one starts from the phase of the earlier.

    Args:
        inverter: Inverts a piece.
        effort: Number of iterations of each step.
        seed: Seed of the phase.
        method: Where the first phase comes from.
    """

    def __init__(self, inverter: MelInverter, effort: Iterations, seed: int, method: Inverter) -> None:
        self._inverter = inverter
        self._effort = effort
        self._seed = seed
        self._method = method
        self._tail: _Tail | None = None
        self.context = 2 * inverter.stft.blocks
        """Columns of the past, and of the future, that a piece needs."""

    def push(self, mels: Tensor, cosine: Tensor | None = None, *, last: bool = False) -> Tensor:
        """Return the samples that are finished with these columns; the first push starts at the first sample.

        Args:
            mels: (clips, channels, frames, n_mels), more frames than `context` unless `last`.
            cosine: (clips, frames, n_mels) for two channels with a known phase between them.
            last: Whether nothing follows, so that everything is finished.

        Returns:
            (clips, channels, samples): at the end `hop_length` for each column but the first, and a rest of at most a window.
        """
        tail = self._tail
        past = None
        begun = 0
        if tail is not None:
            mels = torch.cat([tail.mels, mels], 2)
            cosine = None if cosine is None or tail.cosine is None else torch.cat([tail.cosine, cosine], 1)
            past = PreviousChunk(tail.signal, self._fade(tail), tail.columns)
            begun = tail.columns
        signal = self._invert(mels, cosine, past)
        stft = self._inverter.stft
        frames = mels.shape[2]
        if last:
            self._tail = None
            return signal[..., stft.margin + begun * stft.hop_length :]
        done = frames - self.context
        kept = max(done - self.context, 0)
        self._tail = _Tail(
            mels[:, :, kept:],
            None if cosine is None else cosine[:, kept:],
            signal[..., kept * stft.hop_length :],
            done - kept,
        )
        self._seed += 1
        return signal[..., stft.margin + begun * stft.hop_length : stft.margin + done * stft.hop_length]

    def _invert(self, mels: Tensor, cosine: Tensor | None, past: PreviousChunk | None) -> Tensor:
        if not bool(mels.any()):  # silence has no phase
            silence = mels.new_zeros(*mels.shape[:2], self._inverter.stft.signal_length(mels.shape[2]))
            return silence if past is None else past.hold(silence)
        return self._inverter.invert(mels, self._effort, self._seed, method=self._method, cosine=cosine, past=past)

    def _fade(self, tail: _Tail) -> Tensor:
        """Return 1 where the earlier sound is finished, falling to 0 over the next half window."""
        stft = self._inverter.stft
        fade = torch.zeros(tail.signal.shape[-1])
        held = stft.margin + tail.columns * stft.hop_length
        length = stft.win_length // 2
        fade[:held] = 1
        fade[held : held + length] = torch.cos(torch.linspace(0, math.pi / 2, length)).square()
        return fade.to(tail.signal.device)
