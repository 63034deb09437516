"""The codec between sound and spectrogram image.

A column of the image is a frame, a row a mel band with the lowest at the bottom, and dark is loud:
pixel = 255 - 255 (magnitude / maximum) ** power, the format of the original Riffusion.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import soxr
import torch

from riffusion_train.audio.mel import mel_filter_bank, onto_grid
from riffusion_train.config.errors import InputError
from riffusion_train.config.sample import Quality
from riffusion_train.config.spectrogram import Channels, Rounding, SpectrogramConfig

if TYPE_CHECKING:
    from riffusion_train.audio.inversion import MelInverter

SAMPLE_SCALE = 32768.0
"""Magnitudes are those of 16-bit samples, as in the original, whose `max_value` is on this scale."""

UNKNOWN_LEVEL_PEAK = 0.5
"""Peak of a decoded sound whose maximum is not known, as with a model's images."""


@dataclasses.dataclass(frozen=True)
class EncodedClip:
    """A spectrogram image and the maximum that its darkest pixel stands for.

    Attributes:
        image: uint8, (n_mels, width) for mono, (n_mels, width, 3) for stereo: R is empty, G left, B right.
        max_value: Largest mel magnitude, on the scale of 16-bit samples; 0 for digital silence, and for a picture
            whose level nobody knows, such as a model's.
    """

    image: np.ndarray
    max_value: float


class SpectrogramCodec:
    """Turns sound into images and back by one set of parameters; build it with `make_codec`, which checks them.

    Attributes:
        config: The parameters.
    """

    def __init__(self, config: SpectrogramConfig) -> None:
        self.config = config
        self._window = torch.hann_window(config.win_length, periodic=True)
        self._filters = mel_filter_bank(
            config.n_fft, config.rate_hz, config.n_mels, config.f_min_hz, config.f_max_hz, config.mel_corner_hz
        )
        self._inverters: dict[int, MelInverter] = {}

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

    def encode(self, wav: np.ndarray | torch.Tensor) -> EncodedClip:
        """Encode the first `clip_samples` of a sound; a shorter one is followed by silence.

        Args:
            wav: Samples in [-1, 1] at `rate_hz`, (channels, samples). A mono codec takes the mean of the channels; a
                stereo codec the first two, or the only one twice.
        """
        images, maxima = self.encode_batch(torch.as_tensor(wav)[None])
        return EncodedClip(images[0].numpy(), float(maxima[0]))

    def encode_long(self, wav: np.ndarray | torch.Tensor) -> EncodedClip:
        """Encode a whole sound, (channels, samples), as one image with a column for every hop begun."""
        clip = torch.as_tensor(wav)[None]
        # The reflection at the ends needs more than half an FFT of sound.
        samples = max(clip.shape[-1], self.config.n_fft // 2 + 1)
        images, maxima = self._encode(torch.nn.functional.pad(clip, (0, samples - clip.shape[-1])))
        return EncodedClip(images[0].numpy(), float(maxima[0]))

    @torch.no_grad()
    def encode_batch(self, wavs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode clips, (batch, channels, samples), on the device they lie on.

        Returns:
            Images, uint8 (batch, n_mels, width_px) or, for a stereo codec, (batch, n_mels, width_px, 3), and their
            maxima, float32 (batch,).
        """
        wavs = wavs[..., : self.clip_samples]
        return self._encode(torch.nn.functional.pad(wavs, (0, self.clip_samples - wavs.shape[-1])))

    @torch.no_grad()
    def decode(
        self,
        image: np.ndarray | PIL.Image.Image,
        max_value: float | None = None,
        *,
        quality: str = "normal",
        seed: int = 0,
    ) -> np.ndarray:
        """Rebuild the sound of an image of any width; the same arguments give the same sound.

        Args:
            image: (n_mels, width) or (n_mels, width, 3), uint8 or floats in [0, 1], or a PIL image. The colours of a mono
                image are averaged.
            max_value: The magnitude of black, which restores the true level. Without it, or with 0, the peak becomes
                `UNKNOWN_LEVEL_PEAK`; a white image is silence in any case.
            quality: draft, normal or best.
            seed: Seed of the phase where there is next to nothing to hear.

        Returns:
            float32 samples at `rate_hz`, (channels, (width - 1) * hop_length). With a `max_value` they may pass 1.

        Raises:
            InputError: If the image does not have the height or kind that the codec makes, or the quality is unknown.
        """
        if quality not in Quality.__members__:
            raise InputError(f"quality={quality} is unknown; choose from: {', '.join(Quality.__members__)}")
        darkness = torch.from_numpy(self._darkness(image))  # (channels, n_mels, width)
        samples = (darkness.shape[-1] - 1) * self.config.hop_length
        if not bool(darkness.any()):
            return np.zeros((len(darkness), samples), np.float32)
        mels = darkness.pow(1 / self.config.power).flip(1).transpose(1, 2).contiguous()  # (channels, width, n_mels)
        wav = self._invert(mels, Quality(quality), seed, samples)
        if not max_value:
            return np.asarray(wav * (UNKNOWN_LEVEL_PEAK / max(float(np.abs(wav).max()), 1e-9)), np.float32)
        return np.asarray(wav * (max_value / SAMPLE_SCALE), np.float32)

    def _encode(self, wavs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.config
        wavs = self._with_channels(wavs.float()) * SAMPLE_SCALE
        batch, channels, samples = wavs.shape
        spectrum = torch.stft(
            wavs.reshape(-1, samples), config.n_fft, config.hop_length, config.win_length,
            self._window.to(wavs.device), center=True, pad_mode="reflect", return_complex=True,
        ).abs()  # fmt: skip
        mels = (spectrum.transpose(1, 2) @ self._filters.to(wavs.device)).transpose(1, 2)
        mels = mels.reshape(batch, channels, config.n_mels, -1)
        maxima = mels.amax((1, 2, 3))
        # Digital silence is divided by one, not by zero, and comes out white.
        relative = mels / torch.where(maxima > 0, maxima, torch.ones_like(maxima))[:, None, None, None]
        levels = 255 - _power(relative, config.power) * 255
        if config.rounding is Rounding.nearest:
            levels = levels.round()
        images = levels.clamp(0, 255).to(torch.uint8).flip(2)
        if config.channels is Channels.mono:
            return images[:, 0], maxima
        empty = torch.zeros_like(images[:, 0])
        return torch.stack([empty, images[:, 0], images[:, 1]], -1), maxima

    def _with_channels(self, wavs: torch.Tensor) -> torch.Tensor:
        if self.config.channels is Channels.mono:
            return wavs.mean(1, keepdim=True)
        return wavs.expand(-1, 2, -1) if wavs.shape[1] == 1 else wavs[:, :2]

    def _darkness(self, image: np.ndarray | PIL.Image.Image) -> np.ndarray:
        """Return 0 for white to 1 for black, float32 (channels, n_mels, width)."""
        if isinstance(image, PIL.Image.Image):
            image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        levels = image.astype(np.float32) / 255 if image.dtype == np.uint8 else image.astype(np.float32)
        shape = "x".join(str(size) for size in image.shape[1::-1])
        if image.ndim not in (2, 3) or image.shape[0] != self.config.n_mels or image.shape[1] < 2:
            height = self.config.n_mels
            raise InputError(
                f"an image of {shape} px does not fit '{self.config.name}', which is {height} px high; name its preset"
            )
        if self.config.channels is Channels.mono:
            planes = levels[None] if levels.ndim == 2 else levels.mean(2)[None]
        elif levels.ndim == 2:
            planes = np.stack([levels, levels])
        else:
            planes = np.moveaxis(levels[..., 1:3], 2, 0)
        return np.ascontiguousarray(1 - planes.clip(0, 1))

    def _invert(self, mels: torch.Tensor, quality: Quality, seed: int, samples: int) -> np.ndarray:
        """Return the sound of mel magnitudes (channels, frames, n_mels), (channels, samples), on their own scale."""
        from riffusion_train.audio.inversion import Effort

        efforts = {
            Quality.draft: Effort(mel_iterations=5, phase_iterations=4, mel_phase_iterations=4),
            Quality.normal: Effort(mel_iterations=15, phase_iterations=8, mel_phase_iterations=16),
            Quality.best: Effort(mel_iterations=15, phase_iterations=8, mel_phase_iterations=64),
        }
        config = self.config
        n_fft = config.decode_n_fft
        if quality is Quality.best:
            n_fft = max(n_fft, 2 * _at_decode_rate(config, config.win_length))
        inverter = self._inverter(n_fft)
        wav = inverter.stft.without_margins(inverter.invert(mels, efforts[quality], seed)).numpy()
        if config.decode_rate_hz != config.rate_hz:
            wav = soxr.resample(wav.T, config.decode_rate_hz, config.rate_hz, quality="HQ").T
        # At a lower rate the window covers fewer samples, so the same magnitude stands for a louder sound.
        wav = wav[:, :samples] * (config.decode_rate_hz / config.rate_hz)
        return np.asarray(np.pad(wav, ((0, 0), (0, samples - wav.shape[1]))), np.float32)

    def _inverter(self, n_fft: int) -> "MelInverter":
        # Imported at the first decoding: numba takes a second to load, and encoding does without it.
        from riffusion_train.audio.inversion import MelInverter
        from riffusion_train.audio.stft import DecodingStft

        if n_fft not in self._inverters:
            config = self.config
            stft = DecodingStft(
                _at_decode_rate(config, config.win_length), _at_decode_rate(config, config.hop_length), n_fft
            )
            bin_hz, grid_bin_hz = config.rate_hz / config.n_fft, config.decode_rate_hz / n_fft
            self._inverters[n_fft] = MelInverter(stft, onto_grid(self._filters, bin_hz, grid_bin_hz, stft.bins))
        return self._inverters[n_fft]


def _power(values: torch.Tensor, exponent: float) -> torch.Tensor:
    """Raise to a power; on the CPU by numpy, as the original does: torch differs in the last bit and so in some pixels."""
    if values.device.type != "cpu":
        return values.pow(exponent)
    return torch.from_numpy(np.power(values.numpy(), np.float32(exponent)))


def make_codec(config: SpectrogramConfig) -> SpectrogramCodec:
    """Build the codec of `config`.

    Raises:
        InputError: If the parameters contradict each other.
    """
    for holds, mend in _conditions(config):
        if not holds:
            raise InputError(f"spectrogram '{config.name}': {mend}")
    return SpectrogramCodec(config)


def _conditions(config: SpectrogramConfig) -> list[tuple[bool, str]]:
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
        (config.mel_corner_hz > 0 and config.power > 0, "mel_corner_hz and power must be above 0"),
        (decode_hop == math.floor(decode_hop) > 0, "hop_length must be a whole number of samples at decode_rate_hz"),
        (config.decode_n_fft >= _at_decode_rate(config, config.win_length), "decode_n_fft must hold the window"),
        (config.clip_samples > config.n_fft // 2, "a clip must be longer than half of n_fft; raise width_px"),
    ]


def _at_decode_rate(config: SpectrogramConfig, samples: int) -> int:
    return round(samples * config.decode_rate_hz / max(config.rate_hz, 1))
