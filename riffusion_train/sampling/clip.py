"""A generated clip: picture, sound and everything needed to make it again, as one stem of three files."""

import base64
import dataclasses
import html
import io
import json
from pathlib import Path

import numpy as np

from riffusion_train.audio.codec.codec import EncodedClip
from riffusion_train.audio.codec.image_file import save_image
from riffusion_train.audio.io.write import write_audio
from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.sampling.settings import SETTINGS_KEY, Settings


@dataclasses.dataclass(frozen=True)
class Clip:
    """One generated clip."""

    image: np.ndarray
    """uint8 (height, width) for mono, (height, width, 3) for stereo."""
    audio: np.ndarray
    """float32 (channels, samples) in [-1, 1], at its loudness."""
    spectrogram: SpectrogramConfig
    """The codec between the two."""
    settings: Settings
    """How it was made."""

    @property
    def rate_hz(self) -> int:
        """Sample rate of the audio."""
        return self.spectrogram.rate_hz

    def save(self, stem: str | Path, audio_format: str = "wav") -> list[Path]:
        """Write `<stem>.<audio_format>`, `<stem>.png` and `<stem>.json`; each holds the settings. Returns the paths."""
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths = [stem.with_name(f"{stem.name}.{kind}") for kind in (audio_format, "png", "json")]
        write_audio(paths[0], self.audio, self.rate_hz, tags=tags_of(self.settings))
        texts = {SETTINGS_KEY: self.settings.as_text()}
        save_image(paths[1], EncodedClip(self.image, 0.0), self.spectrogram, texts)
        write_settings(paths[2], self.settings)
        return paths

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the picture, the sound and how it was made."""
        return repr_html(self.image, self.audio, self.rate_hz, self.settings)


def tags_of(settings: Settings) -> dict[str, str]:
    """Return the tags of an audio file."""
    return {"title": settings.request.prompt, "comment": settings.as_text()}


def write_settings(path: Path, settings: Settings) -> None:
    """Write the settings as JSON."""
    text = json.dumps(settings.as_data(), indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def repr_html(image: np.ndarray, audio: np.ndarray, rate_hz: int, settings: Settings) -> str:
    """Return a picture, a sound (channels, samples) and how they were made as HTML with everything inside."""
    import PIL.Image
    import soundfile

    picture, sound = io.BytesIO(), io.BytesIO()
    PIL.Image.fromarray(image).save(picture, "PNG")
    soundfile.write(sound, audio.T, rate_hz, format="WAV", subtype="PCM_16")
    parts = [base64.b64encode(data.getvalue()).decode() for data in (picture, sound)]
    request = settings.request
    words = html.escape(f"{request.mode}: {request.prompt or 'no prompt'}, seed {request.seed}")
    return (
        f'<figure style="margin:0"><img alt="" style="max-width:100%;height:14rem" src="data:image/png;base64,{parts[0]}"><br>'
        f'<audio controls src="data:audio/wav;base64,{parts[1]}"></audio><figcaption>{words}</figcaption></figure>'
    )
