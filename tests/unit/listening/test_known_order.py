"""The distances agree on what anybody hears: other cuts of the same music are nearest, then a codec, then half the bands."""

import numpy as np
import pytest
from support.produced_tracks import write_folder

from riffusion_train.audio.codec.codec import SpectrogramCodec
from riffusion_train.audio.io.read import read_audio, resample
from riffusion_train.listening.distances import kernel_audio_distance, kernel_inception_distance
from riffusion_train.listening.embedder import make_embedder

STARTS_S = (3.0, 20.0)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    """Return the embeddings of the produced tracks, by what was done to them."""
    folder = tmp_path_factory.mktemp("tracks") / "audio"
    write_folder(folder)
    codec = SpectrogramCodec.from_preset("small")
    rate_hz = codec.rate_hz
    length = min(codec.clip_samples, 3 * rate_hz)  # one patch of the embedder
    cuts = {start: [] for start in STARTS_S}
    for path in sorted(folder.glob("*.opus")):
        sound, from_hz = read_audio(path)
        wav = resample(sound.mean(axis=0, keepdims=True), from_hz, rate_hz)
        for start in STARTS_S:
            first = round(start * rate_hz)
            cuts[start].append(wav[:, first : first + length])
    real, others = cuts[STARTS_S[0]], cuts[STARTS_S[1]]
    halved = np.arange(codec.config.n_mels) < codec.config.n_mels // 2  # the upper rows of the image
    sounds = {"real": real, "other cuts": others, "codec": [], "half the bands": []}
    for wav in others:
        clip = codec.encode(wav)
        sounds["codec"].append(codec.decode(clip.image, clip.max_value, quality="draft"))
        image = np.where(halved[:, None], np.uint8(255), clip.image)
        sounds["half the bands"].append(codec.decode(image, clip.max_value, quality="draft"))
    rng = np.random.default_rng(0)
    sounds["noise"] = [0.1 * rng.standard_normal((1, length)).astype(np.float32) for _ in real]
    embedder = make_embedder("musicnn")
    return {
        name: np.stack([heard.embedding for heard in embedder.hear([(wav, rate_hz) for wav in clips])])
        for name, clips in sounds.items()
    }


@pytest.mark.parametrize("distance", [kernel_inception_distance, kernel_audio_distance])
def test_distances_rise_in_the_known_order(embeddings, distance):
    real = embeddings["real"]
    figures = {name: distance(clips, real) for name, clips in embeddings.items() if name != "real"}
    values = [figures[name].value for name in ("other cuts", "codec", "half the bands", "noise")]
    print(distance.__name__, figures)
    assert values == sorted(values) and len(set(values)) == 4, figures
    assert figures["other cuts"].low <= 0 <= figures["other cuts"].high
    assert figures["noise"].low > figures["half the bands"].high
