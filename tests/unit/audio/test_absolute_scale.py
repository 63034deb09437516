import functools

import numpy as np
import pytest
from support.sounds import level_db, noise, tone

from riffusion_train.audio.codec import SpectrogramCodec, make_codec
from riffusion_train.config.spectrogram import load_preset


@functools.cache
def hifi() -> SpectrogramCodec:
    return make_codec(load_preset("hifi"))


@pytest.mark.parametrize("amplitude", [0.3, 0.003])
def test_the_level_comes_back_without_a_maximum(amplitude: float):
    wav = tone(440.0, 1.5, 44100, amplitude) + noise(1.5, 44100, amplitude=amplitude / 10)
    image = hifi().encode_long(wav).image
    for max_value in (None, 0.0, 123.0):
        decoded = hifi().decode(image, max_value, quality="draft")
        assert level_db(decoded[0]) == pytest.approx(level_db(wav[0]), abs=0.7)


def test_quiet_is_pale_and_every_image_has_the_same_black():
    loud, quiet = (hifi().encode_long(noise(1.0, 44100, amplitude=amplitude)) for amplitude in (0.1, 0.001))
    assert loud.max_value == quiet.max_value == hifi().config.reference_value
    # A hundredth of the magnitude is the fourth root of that in blackness.
    blackness = [255 - encoded.image[100:400].mean() for encoded in (loud, quiet)]
    assert blackness[0] / blackness[1] == pytest.approx(100**0.25, rel=0.02)


def test_silence_is_white():
    encoded = hifi().encode_long(np.zeros((1, 44100), np.float32))
    assert (encoded.image == 255).all()
    assert not hifi().decode(encoded.image).any()


def test_louder_than_the_reference_is_cut_to_black_and_stays_finite():
    encoded = hifi().encode_long(noise(1.0, 44100, amplitude=20.0))
    assert encoded.image.min() == 0
    assert (encoded.image == 0).mean() > 0.3
    assert np.isfinite(hifi().decode(encoded.image, quality="draft")).all()
