"""riffusion-train: captioned audio in, a text-to-music model out."""

from riffusion_train.torchaudio_guard import register_empty_extension

register_empty_extension()

__version__ = "0.1.0"
