import numpy as np
import pytest
from support.rendered_clips import images_and_labels

from riffusion_train.evaluation.classifier import ATTRIBUTES, CaptionClassifier, image_features, measure_agreement
from riffusion_train.runtime.errors import InputError

FITTED, OTHERS = range(110), range(110, 150)


@pytest.fixture(scope="module")
def clips():
    return images_and_labels(range(FITTED.start, OTHERS.stop))


@pytest.fixture(scope="module")
def judge(clips):
    pictures, labels = clips
    return CaptionClassifier(
        pictures[: FITTED.stop], {name: labels[name][: FITTED.stop] for name in ATTRIBUTES}, folds=3
    )


@pytest.fixture(scope="module")
def others(clips):
    pictures, labels = clips
    return pictures[FITTED.stop :], {name: labels[name][FITTED.stop :] for name in ATTRIBUTES}


def test_the_judge_recognises_real_clips_it_has_not_seen(judge, others):
    shares = judge.judge(*others)
    for name, least in {"instrument": 0.7, "drums": 0.9, "tempo": 0.9, "register": 0.75}.items():
        assert shares[name] >= least, shares
        assert judge.real_accuracy[name] == pytest.approx(shares[name], abs=0.15)


def test_the_judge_still_recognises_soft_pictures(judge, others):
    pictures, labels = others
    soft = [np.round(p[:-1, :-1] / 4 + p[1:, :-1] / 4 + p[:-1, 1:] / 4 + p[1:, 1:] / 4) for p in pictures]
    soft = [np.pad(picture, ((0, 1), (0, 1)), mode="edge").astype(np.uint8) for picture in soft]
    shares = judge.judge(soft, labels)
    assert shares["instrument"] >= 0.65 and shares["register"] >= 0.7, shares


def test_shuffled_captions_fall_to_chance(judge, others):
    for item in judge.listen(*others, shuffles=300):
        chance = {"instrument": 1 / 6}.get(item.attribute, 1 / 3)
        assert item.shuffled == pytest.approx(chance, abs=0.09)
        assert item.shuffled_min <= item.shuffled <= item.shuffled_max < item.agreement
        assert (item.clips, item.real) == (40, judge.real_accuracy[item.attribute])


def test_a_model_that_ignores_its_captions_scores_as_the_control(judge, others):
    pictures, labels = others
    rolled = {name: labels[name][7:] + labels[name][:7] for name in ATTRIBUTES}
    for item in judge.listen(pictures, rolled, shuffles=300):
        assert item.shuffled_min <= item.agreement <= item.shuffled_max


def test_the_verdict_is_the_same_twice(judge, others):
    assert judge.listen(*others, shuffles=20, seed=3) == judge.listen(*others, shuffles=20, seed=3)
    shuffled = [judge.listen(*others, shuffles=1, seed=seed)[0].shuffled for seed in range(8)]
    assert len(set(shuffled)) > 1


def test_captions_are_shuffled_as_a_whole():
    wanted = {name: list("aabb") for name in ATTRIBUTES}
    agreements = measure_agreement(wanted, wanted, dict.fromkeys(ATTRIBUTES, 1.0), shuffles=50)
    assert len({(item.agreement, item.shuffled, item.shuffled_min, item.shuffled_max) for item in agreements}) == 1
    assert agreements[0].agreement == 1.0


def test_features_take_any_size_and_know_which_end_is_loud():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 96), dtype=np.uint8)
    assert np.isfinite(image_features(image)).all()
    silence = np.full((64, 96), 255, np.uint8)
    assert not image_features(silence)[:64].any()
    low = silence.copy()
    low[-8:] = 0  # the bottom rows are the lowest bands
    assert image_features(low)[:8] == pytest.approx(1.0)


def test_unfit_input_is_named(judge, others):
    pictures, labels = others
    with pytest.raises(InputError, match=r"\(64, 64\)"):
        judge.judge([pictures[0][:64, :64]], {name: labels[name][:1] for name in ATTRIBUTES})
    with pytest.raises(InputError, match="no images"):
        judge.predict([])
    with pytest.raises(InputError, match="too few to learn 'instrument'"):
        CaptionClassifier(pictures[:2], {name: labels[name][:2] for name in ATTRIBUTES})
