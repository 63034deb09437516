"""What the peers do with a track, from file to PNG files, re-expressed: the original Riffusion's batch command, and teticio's.

Both decode as we do, by libsndfile, which is kind to the original: its pydub starts an ffmpeg for each file.
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
    """`audio-to-images-batch` at its parameters, in mono and as PNG, which it knows beside JPEG; its PNGs are RGB.

    The track is cut into clips of 5.11 s, as its `sample-clips-batch` would leave them, but without writing those.
    """

    def __init__(self) -> None:
        self._codec = OriginalCodec()

    def __call__(self, path: Path, out: Path) -> int:
        """Write the pictures of a track. Returns their number."""
        frames, rate_hz = soundfile.read(path, dtype="int16", always_2d=True)
        wav = _linearly_resampled(frames.mean(axis=1), rate_hz)  # as pydub's set_frame_rate does
        count = len(wav) // CLIP_SAMPLES
        for index in range(count):
            clip = wav[index * CLIP_SAMPLES : (index + 1) * CLIP_SAMPLES]
            image = self._codec.encode((clip / SCALE).astype(np.float32)[None])
            Image.fromarray(image).convert("RGB").save(out / f"{path.stem}-{index}.png")
        return count


class TeticioImages:
    """teticio/audio-diffusion 1.5.7, `scripts/audio_to_images.py` and its `Mel`, at its parameters, by librosa.

    Its pictures are those of the package byte for byte, in the same time. Left out is its last step, which saves all pictures
    as a dataset and adds a millisecond a track.

    Mel spectrogram of power, in dB below the slice's own loudest, 80 dB in 255 steps; slices without overlap, the rest dropped.
    """

    def __call__(self, path: Path) -> list[bytes]:
        """Return the pictures of a track as PNG."""
        import librosa

        wav, _ = librosa.load(path, mono=True, sr=TETICIO_RATE_HZ)
        samples = TETICIO_PX * TETICIO_HOP - 1
        pictures = []
        for first in range(0, len(wav) // samples * samples, samples):
            image = self.image(wav[first : first + samples])
            if (image == 255).all():
                continue
            with io.BytesIO() as sink:
                Image.fromarray(image).save(sink, format="PNG")
                pictures.append(sink.getvalue())
        return pictures

    def image(self, wav: np.ndarray) -> np.ndarray:
        """Return the picture of a slice, uint8 (256, 256)."""
        import librosa

        power = librosa.feature.melspectrogram(
            y=wav, sr=TETICIO_RATE_HZ, n_fft=TETICIO_N_FFT, hop_length=TETICIO_HOP, n_mels=TETICIO_PX
        )
        level_db = librosa.power_to_db(power, ref=np.max, top_db=TETICIO_TOP_DB)
        shade = (level_db + TETICIO_TOP_DB) * 255 / TETICIO_TOP_DB
        return (shade.clip(0, 255) + 0.5).astype(np.uint8)


def _linearly_resampled(wav: np.ndarray, rate_hz: int) -> np.ndarray:
    if rate_hz == RATE_HZ:
        return wav
    samples = len(wav) * RATE_HZ // rate_hz
    return np.interp(np.arange(samples) * (rate_hz / RATE_HZ), np.arange(len(wav)), wav)
