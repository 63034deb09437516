"""The codec between sound and spectrogram image.

A column of the image is a frame, a row is a mel band with the lowest at the bottom, and dark is loud:
pixel = 255 - 255 (magnitude / reference) ** power, the format of the original Riffusion. A whole image becomes sound by the
codec itself, one that is still being made by a `StreamingDecoder`: columns in, samples out, as one continuous sound.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import soxr
import torch
from torch import Tensor

from riffusion_train.audio.mel import MelAnalysis, as_tensor, draw_images, mel_filter_bank, read_planes
from riffusion_train.config.spectrogram import Channels, Inverter, Quality, Scale, SpectrogramConfig, find_preset
from riffusion_train.runtime.errors import InputError, member

if TYPE_CHECKING:
    from riffusion_train.audio.decoder import Decoder


SAMPLE_SCALE = 32768.0
"""Magnitudes are those of 16-bit samples, as in the original, whose `max_value` is on this scale."""

UNKNOWN_LEVEL_PEAK = 0.5
"""Peak of a decoded sound whose maximum is not known, as with a model's images under a scale per image."""


@dataclasses.dataclass(frozen=True)
class EncodedClip:
    """A spectrogram image and the magnitude that black stands for.

    Attributes:
        image: uint8, (n_mels, width) for mono, (n_mels, width, 3) for stereo; `Channels` says what the colours are.
        max_value: Mel magnitude of black, on the scale of 16-bit samples: the image's largest or, under an absolute
            scale, the reference. 0 for digital silence under a scale per image, and for an image whose level is
            unknown, such as a model's.
    """

    image: np.ndarray
    max_value: float


class SpectrogramCodec:
    """Turns sound into images and back with one set of parameters; build it with `make_codec`, which checks them.

    Args:
        config: The parameters.

    Attributes:
        config: The parameters.
    """

    def __init__(self, config: SpectrogramConfig) -> None:
        self.config = config
        self._filters = mel_filter_bank(
            config.n_fft, config.rate_hz, config.n_mels, config.f_min_hz, config.f_max_hz, config.mel_corner_hz
        )
        self._analysis = MelAnalysis(self._filters, config.win_length, config.hop_length, SAMPLE_SCALE)
        self._decoder: Decoder | None = None

    @classmethod
    def from_preset(cls, name: str) -> "SpectrogramCodec":
        """Return the codec of a preset of `conf/spectrogram/`, of a `spectrogram.json`, or of a folder that holds one.

        Raises:
            InputError: If there is no such preset, or the file cannot be used.
        """
        return make_codec(find_preset(name))

    @property
    def clip_samples(self) -> int:
        """Number of samples in a clip of `width_px` columns."""
        return self.config.clip_samples

    @property
    def clip_s(self) -> float:
        """Duration of a clip of `width_px` columns in seconds."""
        return self.config.clip_s

    @property
    def rate_hz(self) -> int:
        """Sample rate of the sound that goes in and comes out."""
        return self.config.rate_hz

    def encode(self, wav: np.ndarray | Tensor) -> EncodedClip:
        """Encode the first `clip_samples` of a sound; a shorter one is padded with silence.

        Args:
            wav: Samples in [-1, 1] at `rate_hz`, (channels, samples). A mono codec takes the mean of the channels; a
                stereo codec the first two, or the only one twice.

        Raises:
            InputError: If there are no samples, or some are not numbers.
        """
        images, maxima = self.encode_batch(torch.as_tensor(wav)[None])
        return EncodedClip(images[0].numpy(), float(maxima[0]))

    def encode_long(self, wav: np.ndarray | Tensor) -> EncodedClip:
        """Encode a whole sound, (channels, samples), as one image with a column for every started hop.

        Raises:
            InputError: If there are no samples, or some are not numbers.
        """
        clip = torch.as_tensor(wav)[None]
        # The reflection at the ends needs more than half an FFT of sound.
        images, maxima = self._encode(clip, max(clip.shape[-1], self.config.n_fft // 2 + 1))
        return EncodedClip(images[0].numpy(), float(maxima[0]))

    def encode_batch(self, wavs: Tensor) -> tuple[Tensor, Tensor]:
        """Encode clips, (batch, channels, samples), on their device.

        Returns:
            Images, uint8 (batch, n_mels, width_px) or, for a stereo codec, (batch, n_mels, width_px, 3), and their
            maxima, float32 (batch,).

        Raises:
            InputError: If there are no samples, or some are not numbers.
        """
        return self._encode(wavs[..., : self.clip_samples], self.clip_samples)

    def decode(
        self,
        image: np.ndarray | PIL.Image.Image | Tensor,
        max_value: float | None = None,
        *,
        quality: Quality | str = Quality.normal,
        seed: int = 0,
        inverter: Inverter | str = Inverter.pghi,
    ) -> np.ndarray:
        """Rebuild the sound of an image of any width; the same arguments give the same sound.

        Args:
            image: (n_mels, width) or (n_mels, width, 3), uint8 or floats from 0 to 1, or a PIL image. The colours of a
                mono image are averaged.
            max_value: The magnitude of black, which restores the true level. Without it, or with 0, the peak becomes
                `UNKNOWN_LEVEL_PEAK`; a white image is silence in any case. Ignored under an absolute scale.
            quality: draft, normal or best.
            seed: Seed of the phase where the sound is next to silent.
            inverter: How the phase is found: pghi, fast_griffin_lim or griffin_lim.

        Returns:
            float32 samples at `rate_hz`, (channels, (width - 1) * hop_length). At their true level they may exceed 1.

        Raises:
            InputError: If the image does not have the height or kind that the codec makes, or `quality` or `inverter` is
                unknown.
        """
        wavs = self.decode_batch(
            as_tensor(image)[None],
            None if max_value is None else [max_value],
            quality=quality,
            seed=seed,
            inverter=inverter,
        )
        return np.asarray(wavs[0].cpu().numpy(), np.float32)

    @torch.no_grad()
    def decode_batch(
        self,
        images: Tensor,
        max_values: Sequence[float] | Tensor | None = None,
        *,
        quality: Quality | str = Quality.normal,
        seed: int = 0,
        inverter: Inverter | str = Inverter.pghi,
    ) -> Tensor:
        """Rebuild the sounds of images of one width, on their device; a clip does not depend on the others in the batch.

        On a CPU clips are inverted one by one, which is fastest, and `pghi` gives the best sound for the time. On a GPU
        they are inverted together, but heap integration is a sequential algorithm that runs on the host, one clip after
        another; `fast_griffin_lim` never leaves the GPU and should be the faster one there for large batches, which has
        not been measured.

        Args:
            images: (batch, n_mels, width) or (batch, n_mels, width, 3), uint8 or floats from 0 to 1.
            max_values: The magnitudes of black, as in `decode`.
            quality: draft, normal or best.
            seed: Seed of the phase, the same for every clip.
            inverter: How the phase is found.

        Returns:
            float32 (batch, channels, (width - 1) * hop_length).

        Raises:
            InputError: As `decode`.
        """
        planes = read_planes(images, self.config)
        quality, inverter = member("quality", quality, Quality), member("inverter", inverter, Inverter)
        wavs = self.decoder.decode(planes, quality, inverter, seed)
        return wavs * self._gains(wavs, max_values)[:, None, None]

    @torch.no_grad()
    def decode_loop(
        self,
        image: np.ndarray | PIL.Image.Image | Tensor,
        max_value: float | None = None,
        *,
        quality: Quality | str = Quality.normal,
        seed: int = 0,
    ) -> np.ndarray:
        """Rebuild the sound of an image that repeats: its last column is followed by its first.

        Arguments as of `decode`; the phase is found by circular heap integration.

        Returns:
            float32 samples at `rate_hz`, (channels, width * hop_length), that play as a gapless loop.

        Raises:
            InputError: As `decode`.
        """
        planes = read_planes(as_tensor(image)[None], self.config)
        wavs = self.decoder.decode_loop(planes, member("quality", quality, Quality), seed)
        gain = self._gains(wavs, None if max_value is None else [max_value])
        return np.asarray((wavs * gain[:, None, None])[0].cpu().numpy(), np.float32)

    @torch.no_grad()
    def decode_after(
        self, image: np.ndarray, before: np.ndarray, *, quality: Quality | str = Quality.normal, seed: int = 0
    ) -> np.ndarray:
        """Rebuild how a known sound goes on, from an image whose first columns are its last ones; see `Decoder`.

        Args:
            image: uint8 (n_mels, width) or (n_mels, width, 3).
            before: The known sound, float32 (channels, samples), at any level.
            quality: As of `decode`.
            seed: As of `decode`.
        """
        chosen, planes = member("quality", quality, Quality), read_planes(as_tensor(image)[None], self.config)
        return self.decoder.decode_after(planes, before, chosen, seed)

    @property
    def decoder(self) -> "Decoder":
        """What turns magnitudes into sound; built at the first use, as numba takes a second to load."""
        if self._decoder is None:
            from riffusion_train.audio.decoder import Decoder

            self._decoder = Decoder(self.config, self._filters)
        return self._decoder

    def reference_magnitude(self, max_value: float | None) -> float | None:
        """Return the magnitude of black relative to that of samples in [-1, 1]; None where it is unknown."""
        if self.config.scale is Scale.absolute:
            return self.config.reference_value / SAMPLE_SCALE
        return max_value / SAMPLE_SCALE if max_value else None

    @torch.no_grad()
    def crossfade(self, clips: Sequence[EncodedClip], overlap_px: int) -> EncodedClip:
        """Join images that share `overlap_px` columns with their neighbours, with a crossfade of the magnitudes.

        Args:
            clips: Images of this codec in order, each at least twice as wide as the overlap. Under a scale per image, an
                unknown level is taken to be that of the loudest image.
            overlap_px: Columns that two neighbours share; 0 puts them side by side.

        Raises:
            InputError: If there is no image, or one does not fit or is too narrow.
        """
        levels = [self.reference_magnitude(clip.max_value) for clip in clips]
        known = max((level for level in levels if level is not None), default=1 / SAMPLE_SCALE)
        planes = [read_planes(as_tensor(clip.image)[None], self.config) for clip in clips]
        mels = [
            plane.intensity.pow(1 / self.config.power) * ((known if level is None else level) * SAMPLE_SCALE)
            for plane, level in zip(planes, levels, strict=True)
        ]
        joined, cosine = crossfade_mels(mels, [plane.cosine for plane in planes], overlap_px)
        images, maxima = draw_images(joined, cosine, self.config)
        is_known = self.config.scale is Scale.absolute or any(level is not None for level in levels)
        return EncodedClip(images[0].numpy(), float(maxima[0]) if is_known else 0.0)

    def _gains(self, wavs: Tensor, max_values: Sequence[float] | Tensor | None) -> Tensor:
        """Return the factor of each sound, (clips,): its true level where that is known, else a fixed peak."""
        values = [None] * len(wavs) if max_values is None else [float(value) for value in max_values]
        peaks = wavs.abs().amax((1, 2)).clamp(min=1e-9)
        gains = [self.reference_magnitude(value) for value in values]
        known = [float("nan") if gain is None else gain for gain in gains]
        return torch.tensor(known, device=wavs.device).nan_to_num(0.0) + torch.where(
            torch.tensor([gain is None for gain in gains], device=wavs.device), UNKNOWN_LEVEL_PEAK / peaks, 0.0
        )

    @torch.no_grad()
    def _encode(self, wavs: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        if wavs.shape[-1] == 0:
            raise InputError("the sound is empty; give at least one sample")
        wavs = self._with_channels(wavs.float())
        if wavs.shape[-1] < samples:
            wavs = torch.nn.functional.pad(wavs, (0, samples - wavs.shape[-1]))
        cosine = None
        if self.config.channels is Channels.stereo_phase:
            mels, cosine = self._analysis.stereo(wavs)
        else:
            mels = self._analysis(wavs.flatten(0, 1)).unflatten(0, wavs.shape[:2])
        return draw_images(mels, cosine, self.config)

    def _with_channels(self, wavs: Tensor) -> Tensor:
        """Mix or repeat channels, (clips, channels, samples) -> (clips, num_channels, samples)."""
        if self.config.channels is Channels.mono and wavs.shape[1] == 1:
            return wavs
        if self.config.channels is Channels.mono:
            # The same as `mean`, in a tenth of the time.
            return (wavs[:, :1] + wavs[:, 1:]).div_(2) if wavs.shape[1] == 2 else wavs.mean(1, keepdim=True)
        return wavs.expand(-1, 2, -1) if wavs.shape[1] == 1 else wavs[:, :2]


def make_codec(config: SpectrogramConfig) -> SpectrogramCodec:
    """Build the codec of `config`.

    Raises:
        InputError: If the parameters contradict each other.
    """
    for holds, fix in _conditions(config):
        if not holds:
            raise InputError(f"spectrogram '{config.name}': {fix}")
    return SpectrogramCodec(config)


def _conditions(config: SpectrogramConfig) -> list[tuple[bool, str]]:
    """Return what must hold of the parameters, each with what to say where it does not."""
    decode_hop = config.hop_length * config.decode_rate_hz / max(config.rate_hz, 1)
    smallest: list[tuple[Any, int]] = [
        (config.rate_hz, 1), (config.hop_length, 1), (config.win_length, 2), (config.n_mels, 1), (config.width_px, 2),
        (config.decode_rate_hz, 1),
    ]  # fmt: skip
    return [
        (
            all(value >= least for value, least in smallest),
            "rates, lengths and sizes must be positive, width_px at least 2",
        ),
        (config.hop_length <= config.win_length <= config.n_fft, "hop_length <= win_length <= n_fft must hold"),
        (
            0 <= config.f_min_hz < config.f_max_hz <= min(config.rate_hz, config.decode_rate_hz) / 2,
            "f_min_hz < f_max_hz must lie between 0 and half of rate_hz and of decode_rate_hz",
        ),
        (
            config.mel_corner_hz > 0 and config.power > 0 and config.reference_value > 0,
            "mel_corner_hz, power and reference_value must be above 0",
        ),
        (decode_hop == math.floor(decode_hop) > 0, "hop_length must be a whole number of samples at decode_rate_hz"),
        (
            config.decode_n_fft >= round(config.win_length * config.decode_rate_hz / max(config.rate_hz, 1)),
            "decode_n_fft must hold the window",
        ),
        (config.clip_samples > config.n_fft // 2, "a clip must be longer than half of n_fft; raise width_px"),
    ]


def crossfade_mels(
    mels: Sequence[Tensor], cosines: Sequence[Tensor | None], overlap: int
) -> tuple[Tensor, Tensor | None]:
    """Join spectrograms with a crossfade over the columns that two neighbours share.

    Two versions of the same moment are correlated, so the weights of a raised cosine add up to one in magnitude, not in
    power.

    Args:
        mels: Mel magnitudes in order, each (clips, channels, frames, n_mels).
        cosines: Cosines of the phase between channels, each (clips, frames, n_mels), or None throughout.
        overlap: Columns that two neighbours share.

    Raises:
        InputError: If there is nothing to join, or an overlap takes more than half of a spectrogram.
    """
    if not mels:
        raise InputError("there is no image to join; give at least one")
    narrowest = min(mel.shape[2] for mel in mels)
    if overlap < 0 or (len(mels) > 1 and 2 * overlap > narrowest):
        raise InputError(f"overlap_px={overlap} must be 0 to {narrowest // 2}, half the width of the narrowest image")
    joined, cosine = mels[0], cosines[0]
    for mel, next_cosine in zip(mels[1:], cosines[1:], strict=True):
        joined = _crossfade(joined, mel, overlap)
        if cosine is not None and next_cosine is not None:
            cosine = _crossfade(cosine, next_cosine, overlap)
    return joined, cosine


def _crossfade(before: Tensor, after: Tensor, overlap: int) -> Tensor:
    """Join (..., frames, n_mels) along the frames."""
    if overlap == 0:
        return torch.cat([before, after], -2)
    share = torch.sin(torch.linspace(0, torch.pi / 2, overlap + 2, device=before.device)[1:-1]).square()[:, None]
    both = torch.lerp(before[..., -overlap:, :], after[..., :overlap, :], share)
    return torch.cat([before[..., :-overlap, :], both, after[..., overlap:, :]], -2)


# --- sound from an image that is still being made --------------------------------------------------------------------


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
