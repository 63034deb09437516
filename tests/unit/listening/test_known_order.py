"""The distances agree on what anybody hears: other cuts of the same music are nearest, then a codec, then half the bands."""

import numpy as np
import pytest
from support.rendered_clips import render

from data_prep.corpus.score import attributes_of
from riffusion_train.audio.codec.codec import SpectrogramCodec
from riffusion_train.listening.distances import kernel_audio_distance, kernel_inception_distance
from riffusion_train.listening.embedder import make_embedder

CODEC = SpectrogramCodec.from_preset("tiny")
CLIPS = 20
HEARD_S = 3  # one patch of the embedder
SEED = 1  # no model heard it


def composed(clip: int) -> np.ndarray:
    return render(attributes_of(SEED, clip), SEED, clip)[None, : CODEC.clip_samples]


@pytest.fixture(scope="module")
def embeddings():
    """Return the embeddings of each kind of clips, all at one level."""
    real, others = ([composed(first + clip) for clip in range(CLIPS)] for first in (0, CLIPS))
    images = [CODEC.encode(wav).image for wav in others]
    removed = np.arange(CODEC.config.n_mels)[:, None] < CODEC.config.n_mels // 2  # the upper rows of the image
    halved = [np.where(removed, np.uint8(255), image) for image in images]
    rng = np.random.default_rng(0)
    decoded = {"codec": images, "half the bands": halved}
    sounds = {
        "real": real,
        "other cuts": others,
        **{name: [CODEC.decode(image, quality="draft") for image in parts] for name, parts in decoded.items()},
        "noise": [rng.standard_normal((1, CODEC.clip_samples)) for _ in real],
    }
    embedder = make_embedder("musicnn")

    def hear(wavs: list[np.ndarray]) -> np.ndarray:
        parts = [wav[:, : HEARD_S * CODEC.rate_hz] for wav in wavs]
        levelled = [np.float32(0.1 * part / np.sqrt(np.mean(np.square(part)))) for part in parts]
        return np.stack([one.embedding for one in embedder.hear([(wav, CODEC.rate_hz) for wav in levelled])])

    return {name: hear(wavs) for name, wavs in sounds.items()}


@pytest.mark.parametrize("distance", [kernel_inception_distance, kernel_audio_distance])
def test_distances_rise_in_the_known_order(embeddings, distance):
    figures = {name: distance(clips, embeddings["real"]) for name, clips in embeddings.items() if name != "real"}
    print(distance.__name__, figures)
    values = [figures[name].value for name in ("other cuts", "codec", "half the bands", "noise")]
    assert values == sorted(values) and len(set(values)) == 4, figures
    assert figures["other cuts"].low <= 0 <= figures["other cuts"].high
    assert figures["noise"].low > figures["half the bands"].high
