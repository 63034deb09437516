"""The distances agree on what anybody hears: other cuts of the same music are nearest, noise is furthest."""

import numpy as np
import pytest
from support.rendered_clips import compose_music

from riffusion_train.listening.distances import kernel_audio_distance, kernel_inception_distance
from riffusion_train.listening.embedder import make_embedder
from riffusion_train.sampling.sampler import Sampler

CLIPS = 20
HEARD_S = 3  # one patch of the embedder
SEED = 77  # the model was trained on the seeds 0 and 1
QUALITY = "draft"
ORDER = ("other cuts", "codec", "model", "half the bands", "noise")


@pytest.fixture(scope="module")
def embeddings():
    """Return the embeddings of each kind of clips, all at one level; the model's are of the captions of the other cuts."""
    sampler = Sampler.load("laptop", device="cpu", num_inference_steps=8, quality=QUALITY)
    codec = sampler.codec
    music = compose_music(2 * CLIPS, SEED, codec)
    real, others = ([wav for wav, _ in half] for half in (music[:CLIPS], music[CLIPS:]))
    requests = [(caption, "", number) for number, (_, caption) in enumerate(music[CLIPS:])]
    generated = list(sampler.generate(requests, batch_size=4))
    removed = np.arange(codec.config.n_mels)[:, None] < codec.config.n_mels // 2  # the upper rows of the image
    rng = np.random.default_rng(0)
    sounds = {
        "real": real,
        "other cuts": others,
        "codec": [codec.decode(codec.encode(wav).image, quality=QUALITY) for wav in others],
        "model": [clip.audio for clip in generated],
        "half the bands": [
            codec.decode(np.where(removed, np.uint8(255), clip.image), quality=QUALITY) for clip in generated
        ],
        "noise": [rng.standard_normal((1, codec.clip_samples)) for _ in real],
    }
    embedder = make_embedder("musicnn")

    def hear(wavs: list[np.ndarray]) -> np.ndarray:
        parts = [wav[:, : HEARD_S * codec.rate_hz] for wav in wavs]
        levelled = [np.float32(0.1 * part / np.sqrt(np.mean(np.square(part)))) for part in parts]
        return np.stack([one.embedding for one in embedder.hear([(wav, codec.rate_hz) for wav in levelled])])

    return {name: hear(wavs) for name, wavs in sounds.items()}


@pytest.mark.parametrize("distance", [kernel_inception_distance, kernel_audio_distance])
def test_distances_rise_in_the_known_order(embeddings, distance):
    figures = {name: distance(embeddings[name], embeddings["real"]) for name in ORDER}
    print(distance.__name__, figures)
    values = [figures[name].value for name in ORDER]
    assert values == sorted(values) and len(set(values)) == len(ORDER), figures
    assert figures["other cuts"].low <= 0 <= figures["other cuts"].high
    assert figures["noise"].low > figures["half the bands"].high
