"""The settings that decide what a clip sounds like, and reading them back from its files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from riffusion_train.config.errors import InputError

SETTINGS_KEY = "riffusion"
"""Name under which the settings travel inside the PNG and the audio file."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides what a clip sounds like, besides the model's weights."""

    prompt: str
    negative_prompt: str
    seed: int
    guidance_scale: float
    num_inference_steps: int
    scheduler: str
    quality: str
    model: str
    model_fingerprint: str
    assumed_spectrogram: bool
    """True where the model did not say what its pictures mean."""


def load_settings(path: Path) -> Settings:
    """Read the settings of a clip from its `.json` or `.png`.

    Raises:
        InputError: If the file holds none.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the .json or .png that sample wrote")
    text: Any
    if path.suffix == ".json":
        text = path.read_text(encoding="utf-8")
    elif path.suffix == ".png":
        from riffusion_train.audio.image import load_image

        text = load_image(path).texts.get(SETTINGS_KEY, "")
    else:
        raise InputError(f"{path}: give the .json or .png that sample wrote")
    try:
        return Settings(**json.loads(text))
    except (ValueError, TypeError):
        raise InputError(f"{path}: holds no settings of a generated clip") from None
