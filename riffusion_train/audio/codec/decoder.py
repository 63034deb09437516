"""From the planes of an image to sound: a codec's inverters, long images in chunks, and the codec's own sample rate."""

import soxr
import torch
from torch import Tensor

from riffusion_train.audio.codec.analysis import onto_grid
from riffusion_train.audio.codec.levels import Planes
from riffusion_train.audio.inversion import kernels
from riffusion_train.audio.inversion.chunks import ChunkedInverter
from riffusion_train.audio.inversion.denoise import remove_noise
from riffusion_train.audio.inversion.inverter import GriffinLimInverter, MelInverter, iterations_of
from riffusion_train.audio.inversion.stft import CircularStft, DecodingStft, resample_loop
from riffusion_train.config.sample import Inverter, Quality
from riffusion_train.config.spectrogram import SpectrogramConfig

_CHUNK_COLUMNS = 1024
"""Columns that are inverted at once; longer images are taken in chunks of this size, so that memory stays bounded."""

_LOOP_CONTEXT = 32
"""Columns beyond either end of a loop that the noise reduction sees."""


class Decoder:
    """Inverts the spectrograms of one codec.

    Args:
        config: The codec's parameters.
        filters: Its mel filters, (n_fft // 2 + 1, n_mels).
    """

    def __init__(self, config: SpectrogramConfig, filters: Tensor) -> None:
        self._config = config
        self._filters = filters
        self._inverters: dict[tuple[torch.device, bool], MelInverter] = {}  # by device, and whether for loops

    def decode(self, planes: Planes, quality: Quality, inverter: Inverter, seed: int) -> Tensor:
        """Return the sounds where black is a magnitude of 1, (clips, channels, (frames - 1) * hop_length).

        Args:
            planes: What the images say.
            quality: Sets the number of iterations.
            inverter: How the phase is found.
            seed: Seed of the phase.
        """
        clips, channels, frames, _ = planes.intensity.shape
        samples = (frames - 1) * self._config.hop_length
        wavs = planes.intensity.new_zeros(clips, channels, samples)
        audible = torch.nonzero(planes.intensity.flatten(1).any(1))[:, 0]  # white images stay silent
        # One by one on a CPU: a clip then stays in the cache.
        groups = audible.split(1) if kernels.on_host(wavs) else audible.split(max(len(audible), 1))
        for rows in groups:
            if len(rows):
                cosine = None if planes.cosine is None else planes.cosine[rows]
                mels = self.magnitudes(remove_noise(planes.intensity[rows], self._config))
                wavs[rows] = self._invert(mels, cosine, quality, inverter, seed)[..., :samples]
        return wavs

    def magnitudes(self, intensity: Tensor) -> Tensor:
        """Return mel magnitudes relative to black, of the same shape as `intensity`."""
        power = self._config.power
        # Two squares are a tenth of the time of a general power.
        return intensity.square().square() if power == 0.25 else intensity.pow(1 / power)

    def chunks(self, quality: Quality, inverter: Inverter, seed: int, device: torch.device | str) -> ChunkedInverter:
        """Return what inverts a spectrogram in chunks, at `decode_rate_hz`; its sounds are still to be multiplied by `gain`."""
        coarse = self._inverter(torch.device(device))
        chosen = coarse.finer if quality is Quality.best and coarse.finer is not None else coarse
        iterations = iterations_of(inverter, quality, self._config.win_length / self._config.hop_length)
        return ChunkedInverter(chosen, iterations, seed, inverter)

    def decode_loop(self, planes: Planes, quality: Quality, seed: int) -> Tensor:
        """Return gapless loops where black is a magnitude of 1, (clips, channels, frames * hop_length)."""
        config = self._config
        frames = planes.intensity.shape[2]
        # The noise reduction sees the columns beyond either end, which are those of the other end.
        order = torch.arange(-_LOOP_CONTEXT, frames + _LOOP_CONTEXT) % frames
        smooth = remove_noise(planes.intensity[:, :, order], config)[:, :, _LOOP_CONTEXT : _LOOP_CONTEXT + frames]
        loops = planes.intensity.new_zeros(*planes.intensity.shape[:2], frames * config.hop_length)
        inverter = self._inverter(torch.device("cpu"), circular=True)
        chosen = inverter.finer if quality is Quality.best and inverter.finer is not None else inverter
        iterations = iterations_of(Inverter.pghi, quality, config.win_length / config.hop_length)
        for row, intensity in enumerate(smooth):
            if not bool(intensity.any()):
                continue
            cosine = None if planes.cosine is None else planes.cosine[row : row + 1].cpu()
            mels = self.magnitudes(intensity[None]).cpu()  # (1, channels, frames, n_mels)
            signal = chosen.invert(mels, iterations, seed, cosine=cosine)[0] * self.gain
            wav = signal.roll(-chosen.stft.margin, -1).numpy()  # a circular signal begins half a window early
            hop_length = config.hop_length * config.decode_rate_hz // config.rate_hz
            loops[row] = torch.from_numpy(resample_loop(wav, config.decode_rate_hz, config.rate_hz, hop_length))
        return loops

    @property
    def gain(self) -> float:
        """Factor of the sounds of `chunks`: at a lower rate a window has fewer samples, so a magnitude means a louder sound."""
        return self._config.decode_rate_hz / self._config.rate_hz

    def _invert(self, mels: Tensor, cosine: Tensor | None, quality: Quality, inverter: Inverter, seed: int) -> Tensor:
        if inverter is Inverter.griffin_lim:
            return GriffinLimInverter(self._config, self._filters).invert(mels, quality, seed)
        chunks = self.chunks(quality, inverter, seed, mels.device)
        frames = mels.shape[2]
        # The last chunk has up to one and a half times the columns, so that it is never too short to be inverted.
        starts = list(range(0, max(frames - _CHUNK_COLUMNS // 2, 1), _CHUNK_COLUMNS))
        wavs = [
            chunks.push(
                mels[:, :, start:end],
                None if cosine is None else cosine[:, start:end],
                last=end == frames,
            )
            for start, end in zip(starts, [*starts[1:], frames], strict=True)
        ]
        wav = torch.cat(wavs, -1) * self.gain
        return self._at_rate(wav, (frames - 1) * self._config.hop_length)

    def _at_rate(self, wav: Tensor, samples: int) -> Tensor:
        """Resample (clips, channels, n) to `rate_hz`, on the host, and pad to at least `samples`."""
        config = self._config
        if config.decode_rate_hz != config.rate_hz:
            rows = wav.flatten(0, 1).cpu().numpy()
            resampled = soxr.resample(rows.T, config.decode_rate_hz, config.rate_hz, quality="HQ").T
            wav = torch.from_numpy(resampled.copy()).to(wav.device).unflatten(0, wav.shape[:2])
        return torch.nn.functional.pad(wav, (0, max(samples - wav.shape[-1], 0)))

    def _inverter(self, device: torch.device, *, circular: bool = False) -> MelInverter:
        """Return the inverter on the coarse grid, which holds the one on the finer grid."""
        config = self._config
        win_length, hop_length = (
            round(length * config.decode_rate_hz / config.rate_hz) for length in (config.win_length, config.hop_length)
        )
        key = (device, circular)
        if key not in self._inverters:
            transform = CircularStft if circular else DecodingStft
            fine, coarse = (
                transform(win_length, hop_length, n_fft, device)
                for n_fft in (max(config.decode_n_fft, 2 * win_length), config.decode_n_fft)
            )
            self._inverters[key] = self._make_inverter(coarse, self._make_inverter(fine))
        return self._inverters[key]

    def _make_inverter(self, stft: DecodingStft | CircularStft, finer: MelInverter | None = None) -> MelInverter:
        config = self._config
        bin_hz, grid_bin_hz = config.rate_hz / config.n_fft, config.decode_rate_hz / stft.n_fft
        return MelInverter(stft, onto_grid(self._filters, bin_hz, grid_bin_hz, stft.bins), finer)
