"""The tagger that ships: its image equals librosa's, and what it hears in music with known labels is right."""

import importlib.metadata
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from riffusion_train.audio.read import read_audio
from riffusion_train.config.sample import EmbedderName
from riffusion_train.listening.embedder import HOP_LENGTH, N_FFT, N_MELS, RATE_HZ, TAGS, LogMel, make_embedder
from riffusion_train.runtime.errors import InputError

RATE_48K = 48_000


@pytest.fixture(scope="module")
def embedder():
    return make_embedder(EmbedderName.musicnn)


def noise(duration_s, rate_hz=RATE_HZ, channels=1, seed=0):
    samples = round(duration_s * rate_hz)
    return 0.1 * np.random.default_rng(seed).standard_normal((channels, samples)).astype(np.float32)


def produced(name, start_s=10, duration_s=3):
    files = importlib.metadata.distribution("immich-memories-music").files or ()
    path = next(Path(str(file.locate())) for file in files if str(file).endswith(f"{name}.opus"))
    wav, rate_hz = read_audio(path)
    return wav[:, start_s * rate_hz : (start_s + duration_s) * rate_hz], rate_hz


def test_the_image_equals_librosas():
    wav = noise(1.5)[0] + 0.5 * np.sin(np.arange(24_000) * 0.2).astype(np.float32)
    mel = librosa.feature.melspectrogram(y=wav, sr=RATE_HZ, n_fft=N_FFT, hop_length=HOP_LENGTH, n_mels=N_MELS)
    expected = np.log10(10_000 * mel.T + 1)
    image = LogMel()(torch.from_numpy(np.pad(wav, N_FFT // 2))[None])[0].numpy()
    np.testing.assert_allclose(image, expected, atol=1e-4)
    # The published program rounded the bands to float16 first; without that, no pixel differs by more than its error.
    rounded = np.log10(10_000 * mel.T.astype(np.float16).astype(np.float32) + 1)
    assert np.abs(image - rounded).max() < 5e-4 < 0.01 * np.ptp(image)


def test_acoustic_and_electronic_tracks_are_told_apart_by_their_tags(embedder):
    acoustic = [produced(f"{mood}_acoustic_{take}") for mood, take in (("calm", 1), ("happy", 2), ("tender", "s411"))]
    electronic = [produced(f"{name}_electronic_2") for name in ("energetic", "nostalgic", "tender")]
    heard = embedder.hear([*acoustic, *electronic])
    guitar = [clip.tags["guitar"] for clip in heard]
    machine = [max(clip.tags["electronic"], clip.tags["techno"]) for clip in heard]
    assert min(guitar[:3]) > 0.4 > 0.2 > max(machine[:3])
    assert min(machine[3:]) > 0.3 > 0.2 > max(guitar[3:])
    assert all(clip.tags["msd:electronic"] > 0.2 for clip in heard[3:])


def test_what_is_heard_in_a_clip_does_not_depend_on_the_others(embedder):
    clips = [(noise(seconds, seed=seed), RATE_HZ) for seed, seconds in enumerate((3.0, 7.3, 4.0))]
    together = embedder.hear(clips)
    for clip, heard in zip(clips, together, strict=True):
        (alone,) = embedder.hear([clip])
        np.testing.assert_allclose(alone.patches, heard.patches, atol=1e-6)
        np.testing.assert_allclose(alone.patch_tags, heard.patch_tags, atol=1e-6)
    again = embedder.hear(clips)
    assert all((first.patches == second.patches).all() for first, second in zip(together, again, strict=True))


def test_patches_cover_a_clip_to_its_end_and_are_averaged(embedder):
    whole = noise(7.0)
    changed = whole.copy()
    changed[:, -RATE_HZ:] = 0
    counts = [len(clip.patches) for clip in embedder.hear([(noise(seconds), RATE_HZ) for seconds in (3.0, 6.0, 7.0)])]
    assert counts == [1, 2, 3]
    heard, silent_end = embedder.hear([(whole, RATE_HZ), (changed, RATE_HZ)])
    assert (heard.patches[:2] == silent_end.patches[:2]).all()
    assert np.abs(heard.patches[2] - silent_end.patches[2]).max() > 0.01
    np.testing.assert_allclose(heard.embedding, heard.patches.mean(0), atol=1e-6)
    np.testing.assert_allclose(list(heard.tags.values()), heard.patch_tags.mean(0), atol=1e-6)


def test_rate_and_channels_hardly_matter(embedder):
    wav, rate_hz = produced("calm_acoustic_1")
    assert (len(wav), rate_hz) == (2, RATE_48K)
    mono = wav.mean(0, keepdims=True)
    low = librosa.resample(mono, orig_sr=rate_hz, target_sr=22_050)
    stereo, summed, resampled = embedder.hear([(wav, rate_hz), (mono, rate_hz), (low, 22_050)])
    np.testing.assert_allclose(stereo.embedding, summed.embedding, atol=1e-4)
    assert abs(stereo.tags["guitar"] - resampled.tags["guitar"]) < 0.05


def test_short_and_silent_clips_are_heard(embedder):
    short, repeated = noise(1.0), np.tile(noise(1.0), 3)
    heard = embedder.hear([(short, RATE_HZ), (repeated, RATE_HZ), (np.zeros((2, 96_000), np.float32), RATE_48K)])
    assert (heard[0].patches == heard[1].patches).all()
    assert all(np.isfinite(clip.embedding).all() and clip.patches.shape == (1, 200) for clip in heard)
    (tiny,) = embedder.hear([(np.full((1, 1), 0.5, np.float32), 44_100)])
    assert np.isfinite(tiny.embedding).all()
    assert embedder.hear([]) == []


def test_clips_that_cannot_be_heard_are_named(embedder):
    good = (noise(3.0), RATE_HZ)
    with pytest.raises(InputError, match="clip 2 of 2: holds no audio samples"):
        embedder.hear([good, (np.zeros((1, 0), np.float32), RATE_HZ)])
    with pytest.raises(InputError, match="clip 1 of 2: holds samples that are not numbers"):
        embedder.hear([(np.full((1, 9), np.nan, np.float32), RATE_HZ), good])
    with pytest.raises(InputError, match="sample rate of 0 Hz"):
        embedder.hear([(good[0], 0)])
    with pytest.raises(ValueError, match="channels, samples"):
        embedder.hear([(good[0][0], RATE_HZ)])


def test_an_embedder_is_chosen_by_name(embedder):
    (heard,) = embedder.hear([(noise(3.0), RATE_HZ)])
    assert (embedder.name, embedder.dim, len(heard.tags)) == ("musicnn", 200, 100)
    assert len(set(heard.tags)) == 100 and all(len(set(names)) == 50 for names in TAGS.values())
    assert embedder.embed_texts(["a guitar"]) is None
    with pytest.raises(InputError, match="embedder=vggish is unknown; choose from: musicnn, clap"):
        make_embedder("vggish")
    with pytest.raises(InputError, match="leave it out or set embedder=clap"):
        make_embedder("musicnn", "user/model")
