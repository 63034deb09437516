import numpy as np
from support.sounds import tone

from riffusion_train.audio.codec import make_codec
from riffusion_train.config.spectrogram import load_preset


def test_the_tiny_preset_keeps_the_loudest_band_of_a_tone() -> None:
    codec = make_codec(load_preset("tiny"))
    for frequency_hz in (110.0, 440.0, 1000.0, 3000.0):
        encoded = codec.encode(tone(frequency_hz, codec.clip_s, codec.rate_hz))
        again = codec.encode(codec.decode(encoded.image, encoded.max_value))
        loudest, loudest_again = (picture.image.mean(axis=1).argmin() for picture in (encoded, again))
        assert abs(int(loudest) - int(loudest_again)) <= 1
        assert encoded.image.shape == (64, 64)


def test_the_tiny_preset_keeps_when_things_happen() -> None:
    codec = make_codec(load_preset("tiny"))
    wav = np.zeros((1, codec.clip_samples), np.float32)
    wav[:, codec.clip_samples // 2 :] = tone(500.0, codec.clip_s, codec.rate_hz)[:, : -(codec.clip_samples // 2)]
    encoded = codec.encode(wav)
    decoded = codec.decode(encoded.image, encoded.max_value)
    middle, edge = codec.clip_samples // 2, codec.rate_hz // 5
    before, after = decoded[:, : middle - edge], decoded[:, middle + edge :]
    assert np.sqrt((after**2).mean()) > 20 * np.sqrt((before**2).mean())
