"""From the planes of an image to sound: its noise removed, a codec's inverters, long images in chunks, the codec's sample rate.

White noise on the levels does harm twice: it is audible itself, and it makes quiet bands louder, as the fourth power of a
noisy level is larger on average. Its variance is estimated where an image is smoothest; clean images, and those of a model,
hardly change.
"""

import math

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor

from riffusion_train.audio import kernels
from riffusion_train.audio.inverter import ChunkedInverter, GriffinLimInverter, MelInverter, iterations_of
from riffusion_train.audio.kernels import magnitude
from riffusion_train.audio.mel import Planes, onto_grid
from riffusion_train.audio.stft import CircularStft, DecodingStft, resample_loop
from riffusion_train.config.spectrogram import Inverter, Quality, SpectrogramConfig

# --- from planes to sound --------------------------------------------------------------------------------------------

_CHUNK_COLUMNS = 1024
"""Columns that are inverted at once; longer images are taken in chunks of this size, so that memory stays bounded."""

_LOOP_CONTEXT = 32
"""Columns beyond either end of a loop that the noise reduction sees."""

_LEVEL_ITERATIONS = 3
"""Iterations to the magnitudes that a known sound is compared with: its level does not need more."""


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
                mels = self.magnitudes(_remove_noise(planes.intensity[rows], self._config))
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
        smooth = _remove_noise(planes.intensity[:, :, order], config)[:, :, _LOOP_CONTEXT : _LOOP_CONTEXT + frames]
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

    def lead_columns(self) -> tuple[int, int]:
        """Return the columns of a known sound that `decode_after` continues, and those around them that it must hear."""
        stft = self._inverter(torch.device("cpu")).stft
        return 2 * stft.blocks, stft.blocks // 2 + 2

    def decode_after(self, planes: Planes, before: np.ndarray, quality: Quality, seed: int) -> np.ndarray:
        """Return how a known sound goes on: its phase is carried on, and the new sound has its level.

        Args:
            planes: What one image says, whose first columns, `lead_columns()[0]` of them, are those of the known sound.
            before: The known sound at `rate_hz`, from `lead_columns()[1]` columns before the first column to as many after the
                last known one, of which half a window is how it would have gone on; float32 (channels, samples).
            quality: Sets the number of iterations.
            seed: Seed of the phase where the sound is next to silent.

        Returns:
            float32 (channels, samples), `hop_length` of them for each column that is not known, at `rate_hz`.
        """
        config = self._config
        columns, around = self.lead_columns()
        chunks = self.chunks(quality, Inverter.pghi, seed, "cpu")
        stft = chunks.inverter.stft
        at_rate = before.T
        if config.decode_rate_hz != config.rate_hz:
            at_rate = soxr.resample(at_rate, config.rate_hz, config.decode_rate_hz, quality="HQ")
        known = torch.from_numpy(np.ascontiguousarray(at_rate.T[:, around * stft.hop_length - stft.margin :]))[None]
        mels = self.magnitudes(_remove_noise(planes.intensity, config))  # (1, channels, frames, n_mels)
        cosine = planes.cosine
        # The level at which the known sound has the magnitudes of its columns, by least squares.
        spectrum = magnitude(stft.forward(known, columns))
        expected = chunks.inverter.magnitudes(mels[:, :, :columns], _LEVEL_ITERATIONS)
        energy, likeness = float(spectrum.square().sum()), float((spectrum * expected).sum())
        level = likeness / energy if energy > 0 and likeness > 0 else 0.0
        if level:
            chunks.resume(mels[:, :, :columns], None if cosine is None else cosine[:, :columns], known * level)
            rest = None if cosine is None else cosine[:, columns:]
            wav = chunks.push(mels[:, :, columns:], rest, last=True) / level
        else:  # nothing was heard: there is no phase and no level to carry on
            wav = chunks.push(mels, cosine, last=True)[..., columns * stft.hop_length :] * self.gain
        samples = (mels.shape[2] - columns) * config.hop_length
        return np.asarray(self._at_rate(wav, samples)[0, :, :samples].numpy(), np.float32)

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


# --- noise -----------------------------------------------------------------------------------------------------------

_BLOCK = 16
"""Side of the blocks whose roughness is compared, in pixels."""

_SMOOTHEST = 0.1
"""Share of the blocks that is assumed to contain only noise."""

_FEWEST_BLOCKS = 20

_OWN_ROUGHNESS = 2.0 / 255
"""Roughness of the smoothest parts of clean music; measured: 0.5 to 2.0 levels."""

_PATCH = (16, 8)
"""Columns and bands of the blocks that are transformed."""

_STEP = 4
"""Distance between neighbouring blocks, in both directions."""

_THRESHOLD = 1.8
"""Coefficients below so many standard deviations of the noise are dropped; the usual 2.7 removes more music than noise."""


def noise_variance(intensity: Tensor, config: SpectrogramConfig) -> Tensor:
    """Estimate the variance of white noise on each image in excess of clean music's roughness, (clips,).

    Columns must overlap at least fourfold: further apart, music itself is as rough as noise, and the estimate is 0.

    Args:
        intensity: From 0 for white to 1 for black, (clips, channels, frames, n_mels).
        config: The codec's parameters.
    """
    clips, _, frames, bands = intensity.shape
    none = intensity.new_zeros(clips)
    if config.win_length < 4 * config.hop_length or min(frames, bands) < 2 * _BLOCK:
        return none
    # Second differences along both axes, which music hardly has where it is smooth.
    rough = intensity.diff(n=2, dim=2).diff(n=2, dim=3).square() / 36  # 36: the energy of (1, -2, 1) x (1, -2, 1)
    inside = intensity[:, :, 1:-1, 1:-1]
    # Noise on white or black is clipped on one side: only blocks of levels in between count.
    whole = F.avg_pool2d(((inside > 0.06) & (inside < 0.99)).float(), _BLOCK) > 0.9
    blocks = F.avg_pool2d(rough, _BLOCK)
    usable = [row[inner] for row, inner in zip(blocks, whole, strict=True)]
    variance = torch.stack([row.quantile(_SMOOTHEST) if len(row) >= _FEWEST_BLOCKS else none[0] for row in usable])
    return (variance - _OWN_ROUGHNESS**2).clamp(min=0)


def _remove_noise(intensity: Tensor, config: SpectrogramConfig) -> Tensor:
    """Return intensities without their noise, (clips, channels, frames, n_mels); clean ones stay as they are.

    In the discrete cosine transform of overlapping blocks, music is few large coefficients and noise many small ones. The
    first pass drops the small ones (Yu and Sapiro, DCT image denoising, 2011); its result is the estimate of the music for
    the Wiener filter of the second pass (Dabov et al. 2007, the two steps of BM3D).
    """
    variance = noise_variance(intensity, config)
    if not bool(variance.any()):
        return intensity
    deviation = variance.sqrt().repeat_interleave(intensity.shape[1])[:, None, None, None]
    frames, bands = intensity.shape[-2:]
    times, pitches = _PATCH
    # So that every pixel is in equally many blocks, and a whole number of steps leads to the end.
    margins = (pitches, pitches + -bands % _STEP, times, times + -frames % _STEP)
    planes = F.pad(intensity.flatten(0, 1)[:, None], margins, mode="reflect")
    cosines = (_cosines(times)[:, None, :, None] * _cosines(pitches)[None, :, None, :]).reshape(-1, 1, times, pitches)
    cosines = cosines.to(intensity)
    # First pass: coefficients of all blocks, (planes, times * pitches, rows, columns), and a hard threshold.
    coefficients = F.conv2d(planes, cosines, stride=_STEP)
    large = coefficients.abs() > _THRESHOLD * deviation
    large[:, 0] = True  # the mean of a block
    first = _assemble(coefficients, large.to(coefficients.dtype), cosines)
    # Second pass: the Wiener gain, signal / (signal + noise), from the power of the first estimate.
    power = F.conv2d(first, cosines, stride=_STEP).square()
    smooth = _assemble(coefficients, power / (power + deviation.square()), cosines)
    inside = smooth[..., times : times + frames, pitches : pitches + bands].view_as(intensity).clamp(0, 1)
    return torch.where(variance[:, None, None, None] > 0, inside, intensity)


def _assemble(coefficients: Tensor, gain: Tensor, cosines: Tensor) -> Tensor:
    """Return planes, (planes, 1, frames, bands), from the coefficients of their blocks and a gain for each of them.

    Overlapping blocks are averaged with weight 1 / |gain|^2: the smoother ones count for more (as in BM3D).
    """
    weight = 1 / gain.square().sum(1, keepdim=True).clamp(min=1)
    planes = F.conv_transpose2d(coefficients * gain * weight, cosines, stride=_STEP)
    return planes / F.conv_transpose2d(weight, torch.ones_like(cosines[:1]), stride=_STEP).clamp(min=1e-9)


def _cosines(size: int) -> Tensor:
    """Return the orthonormal discrete cosine transform (DCT-II), (size, size)."""
    index = torch.arange(size, dtype=torch.float32)
    rows = torch.cos(math.pi / size * (index + 0.5) * index[:, None]) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows
