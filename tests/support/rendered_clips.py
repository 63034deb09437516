"""Clips of the demo's corpus, rendered in this process and drawn as 128 x 128 pictures."""

import functools

import numpy as np
import torch

from data_prep.corpus.render import default_soundfont, load_soundfont, midi_bytes, render_clip
from data_prep.corpus.score import Attributes, attributes_of, compose_notes
from riffusion_train.audio.mel import mel_filter_bank  # noqa: F401  (the real front end, used through torch below)


@functools.cache
def soundfont() -> bytes:
    return load_soundfont(default_soundfont())


def render(attributes: Attributes, seed: int = 0, clip: int = 0) -> np.ndarray:
    return render_clip(soundfont(), midi_bytes(compose_notes(attributes, seed, clip), attributes.instrument))
