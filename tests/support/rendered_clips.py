"""Clips of the demo's corpus and composed music, rendered in this process; those of the corpus also as 128 x 128 images."""

import dataclasses
import functools
import io

import numpy as np
import soundfile

from data_prep.corpus.exercises import (
    Attributes,
    attributes_of,
    compose_notes,
    default_soundfont,
    load_soundfont,
    midi_bytes,
    render_clip,
)
from data_prep.corpus.music.clip import make_source
from riffusion_train.audio.codec import SpectrogramCodec, make_codec
from riffusion_train.audio.read import resample
from riffusion_train.config.spectrogram import load_preset

CODEC = make_codec(load_preset("small"))


@functools.cache
def soundfont() -> bytes:
    return load_soundfont(default_soundfont())


def render(attributes: Attributes, seed: int = 0, clip: int = 0) -> np.ndarray:
    return render_clip(soundfont(), midi_bytes(compose_notes(attributes, seed, clip), attributes.instrument))


def images_and_labels(clips: range, seed: int = 0) -> tuple[list[np.ndarray], dict[str, list[str]]]:
    images = []
    labels: dict[str, list[str]] = {}
    for clip in clips:
        attributes = attributes_of(seed, clip)
        wav = render(attributes, seed, clip)
        images.append(np.asarray(CODEC.encode(wav[None, : CODEC.clip_samples]).image))
        for name, value in dataclasses.asdict(attributes).items():
            labels.setdefault(name, []).append(value)
    return images, labels


def compose_music(clips: int, seed: int, codec: SpectrogramCodec) -> list[tuple[np.ndarray, str]]:
    """Return clips of composed music in many styles, mono (1, samples) and as long as a slice, with their captions."""
    source = make_source(seed, None, None, (), None, None)
    music = []
    for clip in range(clips):
        flac, captions = source.render(clip)
        wav, rate_hz = soundfile.read(io.BytesIO(flac), dtype="float32", always_2d=True)
        music.append((resample(wav.mean(axis=1)[None], rate_hz, codec.rate_hz)[:, : codec.clip_samples], captions[0]))
    return music
