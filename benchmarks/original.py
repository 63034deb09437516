"""The codec of the original Riffusion (2022), reimplemented with today's torchaudio as the reference of the benchmarks.

Formulas and parameters: github.com/riffusion/riffusion-hobby, spectrogram_params.py, spectrogram_converter.py and
spectrogram_image_converter.py. It shipped with a mel inversion by stochastic gradient descent, which torchaudio has since
replaced by least squares; both are implemented.
"""

import numpy as np
import torch
import torchaudio

RATE_HZ, HOP_LENGTH, WIN_LENGTH, N_FFT, N_MELS, F_MAX_HZ = 44100, 441, 4410, 17640, 512, 10000.0
SCALE = 32768.0
DECODE_MAX = 30e6
"""The maximum that the original assumes for every image; it normalizes the level afterwards."""

SGD_ITERATIONS = 200
GRIFFIN_LIM_ITERATIONS = 32

_BANDS = N_FFT // 2 + 1


class OriginalCodec:
    """Encodes and decodes mono sound as the original did."""

    def __init__(self) -> None:
        transforms = torchaudio.transforms
        self._spectrogram = transforms.Spectrogram(
            n_fft=N_FFT, hop_length=HOP_LENGTH, win_length=WIN_LENGTH, power=None, center=True, pad_mode="reflect"
        )
        mel = {"sample_rate": RATE_HZ, "f_min": 0.0, "f_max": F_MAX_HZ, "norm": None, "mel_scale": "htk"}
        self._mel_scale = transforms.MelScale(n_mels=N_MELS, n_stft=_BANDS, **mel)
        self._inverse_mel = transforms.InverseMelScale(n_stft=_BANDS, n_mels=N_MELS, **mel)
        self._griffin_lim = transforms.GriffinLim(
            n_fft=N_FFT, n_iter=GRIFFIN_LIM_ITERATIONS, win_length=WIN_LENGTH, hop_length=HOP_LENGTH, power=1.0
        )

    def encode(self, wav: np.ndarray) -> np.ndarray:
        """Return the image, uint8 (512, frames), of audio (1, samples) in [-1, 1]."""
        waveform = torch.from_numpy(wav * np.float32(SCALE))
        mels = self._mel_scale(self._spectrogram(waveform).abs()).numpy()[0]
        data = np.power(mels / np.max(mels), 0.25)
        return np.flipud((255 - data * 255).astype(np.uint8))

    def decode(self, image: np.ndarray, *, as_shipped: bool = False) -> np.ndarray:
        """Return the audio (1, samples) of an image; its level is arbitrary.

        Args:
            image: uint8 (512, frames).
            as_shipped: Invert the mel scale by stochastic gradient descent, which takes half a minute per clip.
        """
        mels = self._mels(image)
        magnitudes = self._invert_by_gradient(mels) if as_shipped else self._inverse_mel(mels)
        return self.phase(magnitudes)

    def phase(self, magnitudes: torch.Tensor) -> np.ndarray:
        """Return the audio (1, samples) of magnitudes (1, bins, frames), by Griffin-Lim from random phases."""
        return (self._griffin_lim(magnitudes) / SCALE).numpy()

    def magnitudes(self, image: np.ndarray) -> torch.Tensor:
        """Return the magnitudes (1, bins, frames) of an image, by least squares."""
        return self._inverse_mel(self._mels(image))

    def _mels(self, image: np.ndarray) -> torch.Tensor:
        data = np.flipud(255 - image.astype(np.float32)) / 255
        return torch.from_numpy(np.power(data, 4) * np.float32(DECODE_MAX))[None]

    def _invert_by_gradient(self, mels: torch.Tensor) -> torch.Tensor:
        """Invert as torchaudio 0.13 did: 200 steps of momentum descent from random magnitudes, clamped at 0."""
        filters = self._mel_scale.fb  # (bins, bands)
        target = mels.transpose(1, 2)
        magnitudes = torch.rand(1, target.shape[1], _BANDS, requires_grad=True)
        optimizer = torch.optim.SGD([magnitudes], lr=0.1, momentum=0.9)
        for _ in range(SGD_ITERATIONS):
            optimizer.zero_grad()
            loss = (target - magnitudes.matmul(filters)).square().sum(-1).mean()
            loss.backward()
            optimizer.step()
            magnitudes.data.clamp_(min=0)
        return magnitudes.detach().transpose(1, 2)
