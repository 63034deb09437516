"""Clips of the demo's corpus, rendered in this process and encoded as the demo's 128 x 128 images."""

import dataclasses
import functools

import numpy as np

from data_prep.corpus.render import default_soundfont, load_soundfont, midi_bytes, render_clip
from data_prep.corpus.score import Attributes, attributes_of, compose_notes
from riffusion_train.audio.codec.codec import make_codec
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
