"""Sound from a spectrogram that is still being made: columns in, samples out, without a seam."""

import numpy as np
import PIL.Image
import soxr
import torch
from torch import Tensor

from riffusion_train.audio.codec.codec import UNKNOWN_LEVEL_PEAK, SpectrogramCodec
from riffusion_train.audio.codec.levels import as_tensor, read_planes
from riffusion_train.config.sample import Inverter, Quality
from riffusion_train.runtime.errors import InputError, choice


class StreamingDecoder:
    """Decodes one long image that arrives in pieces; all that comes out is one sound.

    Each piece goes on with the phase of the last. A column is heard once the two windows after it are there (80 ms of
    `hifi`, 200 ms of `riffusion_v1`, and a little more where the sound is resampled), so each push returns what is finished
    and `flush` the rest.

    Args:
        codec: The codec of the images.
        quality: draft, normal or best.
        seed: Seed of the phase where there is next to nothing to hear.
        inverter: pghi or fast_griffin_lim.
        max_value: The magnitude of black. Without it, under a scale per image, the first piece that is heard is
            brought to a peak of `UNKNOWN_LEVEL_PEAK`, and what follows keeps that scale.

    Raises:
        InputError: If a word is unknown, or the inverter cannot go on from a piece to the next.
    """

    def __init__(
        self,
        codec: SpectrogramCodec,
        *,
        quality: str = "normal",
        seed: int = 0,
        inverter: str = "pghi",
        max_value: float | None = None,
    ) -> None:
        method = Inverter[choice("inverter", inverter, Inverter.__members__)]
        if method is Inverter.griffin_lim:
            raise InputError("inverter=griffin_lim takes an image as a whole; stream with pghi or fast_griffin_lim")
        config = codec.config
        self._codec = codec
        effort = Quality[choice("quality", quality, Quality.__members__)]
        self._chunks = codec.decoder.chunks(effort, method, seed, "cpu")
        self._gain = codec.reference_magnitude(max_value)
        self._waiting: list[tuple[Tensor, Tensor | None]] = []
        self._columns = 0
        self._returned = 0
        self._resampler = None
        if config.decode_rate_hz != config.rate_hz:
            channels = 1 if config.channels.value == "mono" else 2
            self._resampler = soxr.ResampleStream(
                config.decode_rate_hz, config.rate_hz, channels, dtype="float32", quality="HQ"
            )

    @property
    def columns_needed(self) -> int:
        """Columns that must wait before anything is inverted; a player's buffer is at least these."""
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
        """Return the rest, so that all pushes and this together give `hop_length` samples for each column but the first."""
        if self._columns == 0:
            return self._nothing()
        total = (self._columns - 1) * self._codec.config.hop_length
        found = self._finish(self._chunks.push(*self._take(), last=True), last=True)
        missing = total - (self._returned - found.shape[1])
        self._returned = total
        return np.pad(found[:, :missing], ((0, 0), (0, max(missing - found.shape[1], 0))))

    def _take(self) -> tuple[Tensor, Tensor | None]:
        """Return all that waits as one piece, and wait for more."""
        config = self._codec.config
        rows = 1 if config.channels.value == "mono" else 2
        empty = torch.zeros(1, rows, 0, config.n_mels)
        waiting, self._waiting = self._waiting, []
        cosines = [cosine for _, cosine in waiting if cosine is not None]
        none_left = torch.zeros(1, 0, config.n_mels) if config.channels.value == "stereo_phase" else None
        return torch.cat([empty, *(mels for mels, _ in waiting)], 2), torch.cat(cosines, 1) if cosines else none_left

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
        return np.zeros((1 if self._codec.config.channels.value == "mono" else 2, 0), np.float32)
