"""Long spectrograms inverted in overlapping chunks, each of which continues the phase of the previous one."""

import dataclasses
import math

import torch
from torch import Tensor

from riffusion_train.audio.inversion.inverter import Iterations, MelInverter, PreviousChunk
from riffusion_train.config.sample import Inverter


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
        self._inverter = inverter
        self._iterations = iterations
        self._seed = seed
        self._method = method
        self._tail: _Tail | None = None
        self.context = 2 * inverter.stft.blocks
        """Columns before and after it that a chunk needs."""

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
            previous = PreviousChunk(tail.signal, self._fade(tail), tail.columns)
            begun = tail.columns
        signal = self._invert(mels, cosine, previous)
        stft = self._inverter.stft
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

    def _invert(self, mels: Tensor, cosine: Tensor | None, previous: PreviousChunk | None) -> Tensor:
        if not bool(mels.any()):  # silence has no phase
            silence = mels.new_zeros(*mels.shape[:2], self._inverter.stft.signal_length(mels.shape[2]))
            return silence if previous is None else previous.hold(silence)
        return self._inverter.invert(
            mels, self._iterations, self._seed, method=self._method, cosine=cosine, previous=previous
        )

    def _fade(self, tail: _Tail) -> Tensor:
        """Return (samples,): 1 where the earlier sound is finished, falling to 0 over the next half window."""
        stft = self._inverter.stft
        fade = torch.zeros(tail.signal.shape[-1])
        held = stft.margin + tail.columns * stft.hop_length
        length = stft.win_length // 2
        fade[:held] = 1
        fade[held : held + length] = torch.cos(torch.linspace(0, math.pi / 2, length)).square()
        return fade.to(tail.signal.device)
