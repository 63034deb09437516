"""Reimplementations of the peers, from a track to PNG files: the original Riffusion's batch command, and teticio's script.

Both decode with libsndfile, which favours the original: its pydub starts an ffmpeg for each file.
"""

import io
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from benchmarks.original import RATE_HZ, SCALE, OriginalCodec

CLIP_SAMPLES = 511 * 441
TETICIO_RATE_HZ, TETICIO_HOP, TETICIO_N_FFT, TETICIO_PX, TETICIO_TOP_DB = 22050, 512, 2048, 256, 80


class OriginalBatch:
    """The original's `audio-to-images-batch` with its parameters, in mono and with its option PNG, which it writes as RGB.

    The track is cut into clips of 5.11 s as by its `sample-clips-batch`, but without writing them.
    """

    def __init__(self) -> None:
        self._codec = OriginalCodec()

    def __call__(self, path: Path, out: Path) -> int:
        """Write the images of a track. Returns their number."""
        frames, rate_hz = soundfile.read(path, dtype="int16", always_2d=True)
        wav = _resample_linearly(frames.mean(axis=1), rate_hz)  # as pydub's set_frame_rate does
        count = len(wav) // CLIP_SAMPLES
        for index in range(count):
            clip = wav[index * CLIP_SAMPLES : (index + 1) * CLIP_SAMPLES]
            image = self._codec.encode((clip / SCALE).astype(np.float32)[None])
            Image.fromarray(image).convert("RGB").save(out / f"{path.stem}-{index}.png")
        return count


class TeticioImages:
    """teticio/audio-diffusion 1.5.7, `scripts/audio_to_images.py` and its class `Mel` with their parameters, with librosa.

    Makes the same images as the package, byte for byte, in the same time. The script's last step is left out: it saves all
    images as a dataset and adds a millisecond per track.

    An image is a mel power spectrogram in dB below the slice's maximum, 80 dB in 255 steps. Slices do not overlap, and the
    rest of the track is dropped.
    """

    def __call__(self, path: Path) -> list[bytes]:
        """Return the images of a track as PNG."""
        import librosa

        wav, _ = librosa.load(path, mono=True, sr=TETICIO_RATE_HZ)
        samples = TETICIO_PX * TETICIO_HOP - 1
        images = []
        for first in range(0, len(wav) // samples * samples, samples):
            image = self.image(wav[first : first + samples])
            if (image == 255).all():
                continue
            with io.BytesIO() as sink:
                Image.fromarray(image).save(sink, format="PNG")
                images.append(sink.getvalue())
        return images

    def image(self, wav: np.ndarray) -> np.ndarray:
        """Return the image, uint8 (256, 256), of a slice."""
        import librosa

        power = librosa.feature.melspectrogram(
            y=wav, sr=TETICIO_RATE_HZ, n_fft=TETICIO_N_FFT, hop_length=TETICIO_HOP, n_mels=TETICIO_PX
        )
        level_db = librosa.power_to_db(power, ref=np.max, top_db=TETICIO_TOP_DB)
        shade = (level_db + TETICIO_TOP_DB) * 255 / TETICIO_TOP_DB
        return (shade.clip(0, 255) + 0.5).astype(np.uint8)


def _resample_linearly(wav: np.ndarray, rate_hz: int) -> np.ndarray:
    if rate_hz == RATE_HZ:
        return wav
    samples = len(wav) * RATE_HZ // rate_hz
    return np.interp(np.arange(samples) * (rate_hz / RATE_HZ), np.arange(len(wav)), wav)
