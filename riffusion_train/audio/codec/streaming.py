"""Sound from a spectrogram that is still being made: columns in, samples out, as one continuous sound."""

import numpy as np
import PIL.Image
import soxr
import torch
from torch import Tensor

from riffusion_train.audio.codec.codec import UNKNOWN_LEVEL_PEAK, SpectrogramCodec
from riffusion_train.audio.codec.levels import as_tensor, read_planes
from riffusion_train.config.sample import Inverter, Quality
from riffusion_train.config.spectrogram import Channels
from riffusion_train.runtime.errors import InputError, member


class StreamingDecoder:
    """Decodes one long image that arrives in chunks; the output is one continuous sound.

    Each chunk continues the phase of the previous one. A column is finished when the two windows after it have arrived
    (80 ms of `hifi`, 200 ms of `riffusion_v1`, and a little more where the sound is resampled), so each push returns what
    is finished and `flush` the rest.

    Args:
        codec: The codec of the images.
        quality: draft, normal or best.
        seed: Seed of the phase where the sound is next to silent.
        inverter: pghi or fast_griffin_lim.
        max_value: The magnitude of black. Without it, under a scale per image, the first chunk that is not silent is
            scaled to a peak of `UNKNOWN_LEVEL_PEAK`, and what follows keeps that scale.

    Raises:
        InputError: If `quality` or `inverter` is unknown, or the inverter needs the whole image.
    """

    def __init__(
        self,
        codec: SpectrogramCodec,
        *,
        quality: Quality | str = Quality.normal,
        seed: int = 0,
        inverter: Inverter | str = Inverter.pghi,
        max_value: float | None = None,
    ) -> None:
        method = member("inverter", inverter, Inverter)
        if method is Inverter.griffin_lim:
            raise InputError("inverter=griffin_lim takes an image as a whole; stream with pghi or fast_griffin_lim")
        config = codec.config
        self._codec = codec
        self._chunks = codec.decoder.chunks(member("quality", quality, Quality), method, seed, "cpu")
        self._gain = codec.reference_magnitude(max_value)
        self._waiting: list[tuple[Tensor, Tensor | None]] = []
        self._columns = 0
        self._returned = 0
        self._resampler = None
        if config.decode_rate_hz != config.rate_hz:
            self._resampler = soxr.ResampleStream(
                config.decode_rate_hz, config.rate_hz, config.num_channels, dtype="float32", quality="HQ"
            )

    @property
    def columns_needed(self) -> int:
        """Columns that must arrive before anything is inverted; a player's buffer holds at least as many."""
        return self._chunks.context + 1

    @torch.no_grad()
    def push(self, image: np.ndarray | PIL.Image.Image | Tensor) -> np.ndarray:
        """Take the next columns, (n_mels, width) or (n_mels, width, 3), and return what is finished.

        Returns:
            float32 (channels, samples) at the codec's `rate_hz`; there may be none yet.

        Raises:
            InputError: If the image does not fit the codec.
        """
        pixels = as_tensor(image)
        # `read_planes` wants two columns; the copy of a single one is cut off again below.
        wide = torch.cat([pixels, pixels], 1) if pixels.ndim >= 2 and pixels.shape[1] == 1 else pixels
        planes = read_planes(wide[None], self._codec.config)
        width = pixels.shape[1]
        cosine = None if planes.cosine is None else planes.cosine[:, :width]
        self._waiting.append((self._codec.decoder.magnitudes(planes.intensity[:, :, :width]), cosine))
        self._columns += width
        waiting = sum(mels.shape[2] for mels, _ in self._waiting)
        if waiting < self.columns_needed:
            return self._nothing()
        return self._finish(self._chunks.push(*self._take()), last=False)

    @torch.no_grad()
    def flush(self) -> np.ndarray:
        """Return the rest: all pushes and this together give `hop_length` samples for each column but the first."""
        if self._columns == 0:
            return self._nothing()
        total = (self._columns - 1) * self._codec.config.hop_length
        rest = self._finish(self._chunks.push(*self._take(), last=True), last=True)
        missing = total - (self._returned - rest.shape[1])
        self._returned = total
        return np.pad(rest[:, :missing], ((0, 0), (0, max(missing - rest.shape[1], 0))))

    def _take(self) -> tuple[Tensor, Tensor | None]:
        """Return all waiting columns as one chunk, (1, channels, frames, n_mels) and (1, frames, n_mels), and forget them."""
        config = self._codec.config
        # Nothing may be waiting at the end: the empty tensors keep the shapes right.
        empty = torch.zeros(1, config.num_channels, 0, config.n_mels)
        waiting, self._waiting = self._waiting, []
        cosines = [cosine for _, cosine in waiting if cosine is not None]
        no_cosine = torch.zeros(1, 0, config.n_mels) if config.channels is Channels.stereo_phase else None
        return torch.cat([empty, *(mels for mels, _ in waiting)], 2), torch.cat(cosines, 1) if cosines else no_cosine

    def _finish(self, wav: Tensor, *, last: bool) -> np.ndarray:
        wav = wav[0] * self._codec.decoder.gain
        if self._gain is None and wav.numel() and float(wav.abs().max()) > 0:
            self._gain = UNKNOWN_LEVEL_PEAK / float(wav.abs().max())
        samples = np.asarray((wav * (self._gain or 0.0)).numpy(), np.float32)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(samples.T), last=last)
            samples = samples.reshape(len(samples), -1).T
        self._returned += samples.shape[1]
        return samples

    def _nothing(self) -> np.ndarray:
        return np.zeros((self._codec.config.num_channels, 0), np.float32)
