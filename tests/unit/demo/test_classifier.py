import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from support.rendered_clips import images_and_labels

from benchmarks.base_model import Listener
from riffusion_train.demo.judged import ATTRIBUTES, CaptionClassifier, image_features
from riffusion_train.listening.captions import measure_agreement
from riffusion_train.runtime.errors import InputError

FITTED, OTHERS = range(110), range(110, 150)


@pytest.fixture(scope="module")
def clips():
    return images_and_labels(range(FITTED.start, OTHERS.stop))


@pytest.fixture(scope="module")
def classifier(clips):
    images, labels = clips
    return CaptionClassifier(images[: FITTED.stop], {name: labels[name][: FITTED.stop] for name in ATTRIBUTES}, folds=3)


@pytest.fixture(scope="module")
def others(clips):
    images, labels = clips
    return images[FITTED.stop :], {name: labels[name][FITTED.stop :] for name in ATTRIBUTES}


def test_the_classifier_recognises_real_clips_it_has_not_seen(classifier, others):
    shares = classifier.accuracy(*others)
    for name, least in {"instrument": 0.7, "drums": 0.9, "tempo": 0.9, "register": 0.75}.items():
        assert shares[name] >= least, shares
        assert classifier.real_accuracy[name] == pytest.approx(shares[name], abs=0.15)


def test_the_classifier_still_recognises_soft_images(classifier, others):
    images, labels = others
    soft = [np.round(p[:-1, :-1] / 4 + p[1:, :-1] / 4 + p[:-1, 1:] / 4 + p[1:, 1:] / 4) for p in images]
    soft = [np.pad(image, ((0, 1), (0, 1)), mode="edge").astype(np.uint8) for image in soft]
    shares = classifier.accuracy(soft, labels)
    assert shares["instrument"] >= 0.65 and shares["register"] >= 0.7, shares


def test_shuffled_captions_fall_to_chance(classifier, others):
    for item in classifier.agreements(*others, shuffles=300):
        chance = {"instrument": 1 / 6}.get(item.attribute, 1 / 3)
        assert item.shuffled == pytest.approx(chance, abs=0.09)
        assert item.shuffled_min <= item.shuffled <= item.shuffled_max < item.agreement
        assert (item.clips, item.real) == (40, classifier.real_accuracy[item.attribute])


def test_a_model_that_ignores_its_captions_scores_as_the_control(classifier, others):
    images, labels = others
    rolled = {name: labels[name][7:] + labels[name][:7] for name in ATTRIBUTES}
    for item in classifier.agreements(images, rolled, shuffles=300):
        assert item.shuffled_min <= item.agreement <= item.shuffled_max


def test_the_result_is_the_same_twice(classifier, others):
    assert classifier.agreements(*others, shuffles=20, seed=3) == classifier.agreements(*others, shuffles=20, seed=3)
    shuffled = [classifier.agreements(*others, shuffles=1, seed=seed)[0].shuffled for seed in range(8)]
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


def test_unfit_input_is_named(classifier, others):
    images, labels = others
    with pytest.raises(InputError, match=r"\(64, 64\)"):
        classifier.accuracy([images[0][:64, :64]], {name: labels[name][:1] for name in ATTRIBUTES})
    with pytest.raises(InputError, match="no images"):
        classifier.predict([])
    with pytest.raises(InputError, match="too few to learn 'instrument'"):
        CaptionClassifier(images[:2], {name: labels[name][:2] for name in ATTRIBUTES})


def test_the_base_model_s_classifier_also_hears_what_a_vae_has_softened(clips):
    images, labels = clips
    labels = {"tempo": labels["tempo"], "style": labels["instrument"]}
    soft = [gaussian_filter(image.astype(np.float64), (0, 1.2)).round().astype(np.uint8) for image in images]
    known, others = slice(0, FITTED.stop), slice(FITTED.stop, None)
    fitted = {name: values[known] for name, values in labels.items()}
    asked = {name: values[others] for name, values in labels.items()}
    listener = Listener(images[known], fitted, soft[known])
    sharp = Listener(images[known], fitted, [])
    heard, missed = listener.accuracy(soft[others], asked), sharp.accuracy(soft[others], asked)
    assert min(heard.values()) >= 0.85 and heard["style"] >= missed["style"] + 0.1, (heard, missed)
    assert listener.accuracy(images[others], asked) == pytest.approx(heard, abs=0.1)  # sharp ones are still heard
