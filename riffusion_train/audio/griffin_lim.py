"""The compatible inverter: least squares and Griffin-Lim of torchaudio, at the full FFT of the analysis."""

import torch
import torchaudio.transforms
from torch import Tensor

from riffusion_train.config.sample import Quality
from riffusion_train.config.spectrogram import SpectrogramConfig

ITERATIONS = {Quality.draft: 16, Quality.normal: 32, Quality.best: 64}
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
            config.n_fft, ITERATIONS[quality], config.win_length, config.hop_length, power=1.0
        ).to(mels.device)
        wavs = []
        with torch.random.fork_rng([mels.device] if mels.device.type == "cuda" else []):
            for clip in linear:
                torch.manual_seed(seed)
                wavs.append(griffin_lim(clip))
        return torch.stack(wavs)
