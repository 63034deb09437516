"""A generated clip: picture, sound and everything needed to make it again, as one stem of three files."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from riffusion_train.audio.codec import EncodedClip
from riffusion_train.audio.files import write_audio
from riffusion_train.audio.image import save_image
from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.sampling.settings import SETTINGS_KEY, Settings


@dataclasses.dataclass(frozen=True)
class Clip:
    """One generated clip."""

    image: np.ndarray
    """uint8 (height, width) for mono, (height, width, 3) for stereo."""
    audio: np.ndarray
    """float32 (channels, samples) in [-1, 1]."""
    spectrogram: SpectrogramConfig
    """The codec between the two."""
    settings: Settings
    """How it was made."""

    @property
    def rate_hz(self) -> int:
        """Sample rate of the audio."""
        return self.spectrogram.rate_hz

    def save(self, stem: Path, audio_format: str = "wav") -> list[Path]:
        """Write `<stem>.<audio_format>`, `<stem>.png` and `<stem>.json`; each holds the settings. Returns the paths."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        data = dataclasses.asdict(self.settings)
        text = json.dumps(data, ensure_ascii=False)
        paths = [stem.with_name(f"{stem.name}.{kind}") for kind in (audio_format, "png", "json")]
        write_audio(paths[0], self.audio, self.rate_hz, tags={"title": self.settings.prompt, "comment": text})
        save_image(paths[1], EncodedClip(self.image, 0.0), self.spectrogram, {SETTINGS_KEY: text})
        paths[2].write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return paths
