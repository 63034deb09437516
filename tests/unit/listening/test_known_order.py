"""The judge agrees with what anybody hears, on music of the demo's corpus and on clips of trained demos.

The clips are in `tests/fixtures/demo_clips`, whose README says which command made them.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.rendered_clips import render

from data_prep.corpus.score import attributes_of
from riffusion_train.audio.codec.codec import SpectrogramCodec
from riffusion_train.listening.copies import CopySearch, TrainingSlices, band_centres_hz
from riffusion_train.listening.distances import kernel_audio_distance, kernel_inception_distance
from riffusion_train.listening.embedder import make_embedder

FIXTURE = Path(__file__).parents[2] / "fixtures" / "demo_clips"
CODEC = SpectrogramCodec.from_preset("tiny")
CLIPS = 20
HEARD_S = 3  # one patch of the embedder
NEW_SEED, DEMO_SEED = 1, 0
TRAINED = 90


def images_of(name: str) -> list[np.ndarray]:
    """Return the images of a fixture, which are side by side in one file."""
    strip = np.asarray(Image.open(FIXTURE / f"{name}.png"))
    return np.split(strip, strip.shape[1] // CODEC.config.width_px, axis=1)


def composed(seed: int, clip: int) -> np.ndarray:
    return render(attributes_of(seed, clip), seed, clip)[None, : CODEC.clip_samples]


@pytest.fixture(scope="module")
def embeddings():
    """Return the embeddings of each kind of clips, all at one level."""
    real, others = ([composed(NEW_SEED, first + clip) for clip in range(CLIPS)] for first in (0, CLIPS))
    demo = images_of("demo")[:CLIPS]
    removed = np.arange(CODEC.config.n_mels)[:, None] < CODEC.config.n_mels // 2  # the upper rows of the image
    halved = [np.where(removed, np.uint8(255), image) for image in demo]
    rng = np.random.default_rng(0)
    decoded = {"codec": [CODEC.encode(wav).image for wav in others], "demo": demo, "half the bands": halved}
    sounds = {
        "real": real,
        "other cuts": others,
        **{name: [CODEC.decode(image, quality="draft") for image in images] for name, images in decoded.items()},
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
    values = [figures[name].value for name in ("other cuts", "codec", "demo", "half the bands", "noise")]
    assert values == sorted(values) and len(set(values)) == 5, figures
    assert figures["other cuts"].low <= 0 <= figures["other cuts"].high
    assert figures["noise"].low > figures["half the bands"].high


def test_a_model_of_ten_slices_copies_and_the_demo_does_not():
    images = [np.asarray(CODEC.encode(composed(DEMO_SEED, clip)).image) for clip in range(TRAINED)]
    config = CODEC.config
    seconds = config.hop_length / config.rate_hz
    slices = TrainingSlices(images, [str(clip) for clip in range(TRAINED)], seconds, band_centres_hz(config))
    search = CopySearch(slices)
    flagged = {name: [one.is_copy for one in search.find(images_of(name))] for name in ("demo", "ten_slices")}
    print({name: np.mean(found) for name, found in flagged.items()}, search.threshold)
    assert np.mean(flagged["demo"]) <= 0.05
    assert np.mean(flagged["ten_slices"]) >= 0.5
