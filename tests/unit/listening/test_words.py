import math

import numpy as np
import pytest

from riffusion_train.listening.captions import (
    CaptionModel,
    compare,
    named_key,
    named_tempo,
    phrases,
    retrieval,
    same_tempo,
    win_shares,
)
from riffusion_train.listening.distances import TooFewClipsError

INSTRUMENTS, SPEEDS = ("piano", "church organ", "violin"), ("slow", "fast")
DIM = 24


def dataset(clips, seed, noise=1.0):
    """Return embeddings that hold instrument and speed, and two captions for each clip that name them."""
    rng = np.random.default_rng(seed)
    axes = np.random.default_rng(99).standard_normal((5, DIM))
    kinds, speeds = rng.integers(0, 3, clips), rng.integers(0, 2, clips)
    embeddings = axes[kinds] + axes[3 + speeds] + noise * rng.standard_normal((clips, DIM))
    captions = [
        [
            f"{SPEEDS[s]} {INSTRUMENTS[k]} music, {rng.integers(60, 180)} bpm, in the evening",
            f"a {INSTRUMENTS[k]}, {SPEEDS[s]}",
        ]
        for k, s in zip(kinds, speeds, strict=True)
    ]
    return embeddings, captions


@pytest.fixture(scope="module")
def model():
    return CaptionModel(*dataset(200, 0))


def test_the_words_that_can_be_heard_are_learnt(model):
    accuracy = dict(zip(model.vocabulary, model.accuracy, strict=True))
    for word in ("piano", "violin", "slow", "fast", "church organ"):
        assert accuracy[word] > 0.85, accuracy
    assert "bpm" not in accuracy and "the" not in accuracy  # in every caption; says nothing
    assert not [word for word in accuracy if any(letter.isdigit() for letter in word)]


def test_clips_that_follow_their_captions_beat_shuffled_ones(model):
    embeddings, captions = dataset(60, 1)
    result, real = model.agreement(embeddings, [texts[1] for texts in captions], shuffles=200, resamples=200)
    assert result.value > 0.85 and real > 0.85
    assert result.low <= result.value <= result.high
    assert result.shuffled == pytest.approx(0.5, abs=0.05)
    assert result.shuffled_high < result.low


def test_clips_that_ignore_their_captions_score_as_the_control(model):
    embeddings, captions = dataset(60, 2)
    result, _ = model.agreement(embeddings[::-1], [texts[1] for texts in captions], shuffles=200, resamples=50)
    assert result.shuffled_low <= result.value <= result.shuffled_high


def test_retrieval_finds_the_own_caption_and_falls_to_chance_when_shuffled(model):
    embeddings, captions = dataset(80, 3)
    texts = [f"{own[0]} number {i}" for i, own in enumerate(captions)]
    result = retrieval(model.scores(embeddings, texts), texts, shuffles=200, resamples=100)
    # One caption in six has the same words, so that even a perfect ear must guess among a few.
    assert result.value > 0.25 > result.high - result.value
    assert result.shuffled == pytest.approx(1 / 16, abs=0.02)


def test_win_shares_are_those_of_random_draws():
    rng = np.random.default_rng(0)
    scores = np.round(rng.standard_normal((24, 24)), 1)  # with some equal scores
    texts = [f"caption {i // 2 if i < 4 else i}" for i in range(24)]  # and some equal texts
    scores[:, 1], scores[:, 3] = scores[:, 0], scores[:, 2]
    wins, shares = win_shares(scores, texts, others=5)
    for clip, caption in ((0, 0), (5, 5), (7, 3), (20, 11)):
        others = [i for i in range(24) if texts[i] != texts[caption]]
        draws = [rng.choice(others, 5, replace=False) for _ in range(6000)]
        noise = rng.random((6000, 24)) * 1e-6  # decides between equal scores
        won = [(scores[clip] + n)[caption] > (scores[clip] + n)[d].max() for n, d in zip(noise, draws, strict=True)]
        assert wins[clip, caption] == pytest.approx(np.mean(won), abs=0.02)
    assert 0 <= shares.min() <= shares.max() <= 1


def test_scores_without_information_win_by_chance():
    wins, shares = win_shares(np.zeros((20, 20)), [str(i) for i in range(20)])
    assert np.allclose(wins, 1 / 16) and np.allclose(shares, 0.5)


def test_too_few_different_captions_are_refused():
    with pytest.raises(TooFewClipsError, match="at least 16 clips with different captions, not 2") as error:
        retrieval(np.eye(20), ["slow", "fast"] * 10)
    assert error.value.needed == 16


def test_too_few_real_clips_are_refused():
    embeddings, captions = dataset(60, 4)
    captions[:20] = [[]] * 20
    with pytest.raises(TooFewClipsError, match="at least 50 real clips with captions, not 40"):
        CaptionModel(embeddings, captions)


def test_a_comparison_is_the_same_twice():
    values = np.random.default_rng(1).random((30, 30))
    runs = [compare(lambda i, j: float(values[i, j].mean()), 30, shuffles=50, resamples=50, seed=4) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0].value == pytest.approx(np.diag(values).mean())


def test_phrases_are_words_and_pairs_without_little_words_and_numbers():
    assert phrases("A slow piano, at 120 BPM") == {"slow", "piano", "bpm", "slow piano", "piano bpm"}


@pytest.mark.parametrize(
    ("caption", "bpm"),
    [
        ("fast organ, 159 bpm, E major", 159),
        ("120 BPM techno", 120),
        ("at 92.5bpm", 92.5),
        ("a 70 - bpm waltz of 70 beats per minute", 70),
        ("from 90 bpm to 120 bpm", None),
        ("1980 music in 3/4", None),
    ],
)
def test_tempo_is_read_from_a_caption(caption, bpm):
    assert named_tempo(caption) == bpm


@pytest.mark.parametrize(
    ("caption", "key"),
    [
        ("melody in A minor", "A minor"),
        ("159 bpm, E major", "E major"),
        ("C# major chords", "C# major"),
        ("Bb minor", "A# minor"),
        ("in B-flat major", "A# major"),
        ("F sharp min, slow", "F# minor"),
        ("key: g major", "G major"),
        ("in a minor mood", "A minor"),
        ("a minor change", None),
        ("a major hit by Abba", None),
        ("Cb major", "B major"),
    ],
)
def test_key_is_read_from_a_caption(caption, key):
    assert named_key(caption) == key


def test_a_tempo_is_right_within_four_percent_or_as_a_multiple():
    assert same_tempo(124.7, 120) and not same_tempo(125, 120)
    assert not same_tempo(60, 120) and same_tempo(60, 120, (1.0, 2.0, 0.5))
    assert math.isclose(named_tempo("120 bpm"), 120)
