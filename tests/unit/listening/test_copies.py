import dataclasses

import numpy as np
import pytest
from support.rendered_clips import CODEC, render

from benchmarks.planted_copies import KINDS, as_lines, calibrate
from data_prep.corpus.exercises import attributes_of
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.listening.copies import CopySearch, Nearest, TrainingSlices, _exceeded_by, band_centres_hz
from riffusion_train.listening.distances import TooFewClipsError
from riffusion_train.runtime.errors import InputError

TRAINING, NEW, COPIES = 90, 40, 20
CONFIG = CODEC.config


def image_of(wav):
    return np.asarray(CODEC.encode(wav[None]).image)


@pytest.fixture(scope="module")
def sounds():
    return [render(attributes_of(0, clip), 0, clip)[: CODEC.clip_samples] for clip in range(TRAINING + NEW)]


@pytest.fixture(scope="module")
def slices(sounds):
    images = [image_of(wav) for wav in sounds[:TRAINING]]
    embeddings = np.random.default_rng(0).standard_normal((TRAINING, 12))
    names = [f"track {i}" for i in range(TRAINING)]
    return TrainingSlices(images, names, CONFIG.hop_length / CONFIG.rate_hz, band_centres_hz(CONFIG), embeddings)


@pytest.fixture(scope="module")
def search(slices):
    return CopySearch(slices)


def test_planted_copies_are_found_among_new_music_of_the_same_kind(sounds):
    names = [str(i) for i in range(TRAINING)]
    result = calibrate(sounds[:TRAINING], names, sounds[TRAINING:], CODEC, COPIES)
    print(*as_lines(result), sep="\n")
    assert result.new_flagged <= 0.05
    assert [detection.kind for detection in result.detections] == list(KINDS)
    for detection in result.detections[:4]:
        assert detection.flagged >= 0.9 and detection.at_one_percent >= 0.9, detection
        assert detection.right_slice >= 0.9 and detection.area >= 0.99, detection
        assert detection.roc[0][0] == 0 and detection.roc[-1] == (1, 1)
    assert result.detections[4].area >= 0.9


def test_shift_and_transposition_of_a_copy_are_told(search, slices, sounds):
    exact = search.nearest(slices.images[3], slices.embeddings[3])
    assert (exact.slice, exact.track, exact.is_copy, exact.transposition) == (3, "track 3", True, 0)
    assert exact.similarity == pytest.approx(1, abs=0.01) and exact.shift_s == 0 and exact.quantile == 1
    assert exact.embedding_slice == 3 and exact.embedding_distance == pytest.approx(0, abs=1e-6)
    columns = 30
    later = np.concatenate([image_of(sounds[-1])[:, :columns], slices.images[3][:, :-columns]], axis=1)
    shifted = search.nearest(later)
    assert shifted.slice == 3 and shifted.is_copy and shifted.embedding_slice is None
    assert shifted.shift_s == pytest.approx(columns * slices.seconds_per_column, abs=0.09)


def test_a_long_clip_is_searched_in_windows(search, slices, sounds):
    new = image_of(sounds[-1])
    found = search.nearest(np.concatenate([new, slices.images[7]], axis=1))
    assert found.slice == 7 and found.is_copy
    assert found.shift_s == pytest.approx(new.shape[1] * slices.seconds_per_column, abs=0.1)
    half = search.nearest(slices.images[7][:, : new.shape[1] // 2])
    assert half.slice == 7


def test_clips_are_found_alone_as_together(search, sounds):
    images = [image_of(wav) for wav in sounds[-20:]]
    assert [round(one.similarity, 4) for one in search.find(images)] == [
        round(search.nearest(image).similarity, 4) for image in images
    ]


def test_silence_and_noise_copy_nothing(search, slices):
    silence = np.full(slices.images[0].shape, 255, np.uint8)
    noise = np.random.default_rng(1).integers(0, 256, silence.shape, dtype=np.uint8)
    for image in (silence, noise):
        found = search.nearest(image)
        assert not found.is_copy and found.similarity < 0.3


def test_a_recording_that_two_tracks_hold_does_not_raise_the_threshold(search, slices):
    doubled = dataclasses.replace(
        slices, images=[*slices.images, *slices.images[:40]], tracks=[*slices.tracks, *"abcdefgh" * 5], embeddings=None
    )
    twice = CopySearch(doubled)
    assert twice.duplicates > 0
    assert twice.threshold == pytest.approx(search.threshold, abs=0.06)


def test_slices_of_the_own_track_do_not_count_as_chance(slices):
    parts = [image[:, start : start + 96] for image in slices.images for start in (0, 32)]
    tracks = [track for track in slices.tracks for _ in range(2)]
    search = CopySearch(dataclasses.replace(slices, images=parts, tracks=tracks, embeddings=None))
    assert search.threshold < 0.95 and search.duplicates == 0
    assert isinstance(search.nearest(parts[4]), Nearest)


@pytest.mark.parametrize("slices", [60, 90, 300])
def test_the_threshold_is_not_too_low_though_the_highest_similarities_come_in_pairs(slices):
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(1000):
        between_tracks = np.repeat(rng.gumbel(0.4, 0.05, slices // 2), 2)  # each other's nearest
        threshold = _exceeded_by(between_tracks, 0.01)
        shares.append(-np.expm1(-np.exp(-(threshold - 0.4) / 0.05)))  # of the same distribution
    assert 0.004 <= np.mean(shares) <= 0.0115


def test_too_little_to_learn_from_is_refused(slices):
    with pytest.raises(TooFewClipsError, match="at least 50 training slices, not 20"):
        CopySearch(dataclasses.replace(slices, images=slices.images[:20], tracks=slices.tracks[:20], embeddings=None))
    with pytest.raises(TooFewClipsError, match="at least 10 training tracks, not 2"):
        CopySearch(dataclasses.replace(slices, tracks=["a", "b"] * (TRAINING // 2)))


def test_images_of_another_codec_are_refused(search, slices):
    with pytest.raises(InputError, match="use the codec of the training data"):
        search.nearest(slices.images[0][:64])


def test_band_centres_are_those_of_the_codec():
    config = load_preset("small")
    centres = band_centres_hz(config)
    tone = np.sin(2 * np.pi * centres[60] * np.arange(CODEC.clip_samples) / config.rate_hz).astype(np.float32)
    image = image_of(0.5 * tone)[::-1]
    assert len(centres) == config.n_mels and image[:, 60].argmin() == 60
