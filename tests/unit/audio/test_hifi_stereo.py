import dataclasses
import functools

import numpy as np
from support.sounds import level_db, noise, tone

from riffusion_train.audio.codec import SpectrogramCodec, make_codec
from riffusion_train.config.spectrogram import Channels, load_preset

RATE_HZ = 44100


@functools.cache
def codec_of(channels: Channels) -> SpectrogramCodec:
    return make_codec(dataclasses.replace(load_preset("hifi_stereo"), channels=channels))


def mixture() -> np.ndarray:
    """A centred tone, one on either side, an out-of-phase one, and noise that the sides share by half."""
    centre, left, right, apart = (tone(f, 1.5, RATE_HZ, 0.1) for f in (330.0, 600.0, 1500.0, 2500.0))
    shared, own_left, own_right = (noise(1.5, RATE_HZ, seed, 0.02) for seed in range(3))
    return np.concatenate([centre + left + apart + shared + own_left, centre + right - apart + shared + own_right])


def coherence(wav: np.ndarray) -> np.ndarray:
    """Normalised real cross-spectrum of two channels in 40 bands up to 10 kHz."""
    frames = np.lib.stride_tricks.sliding_window_view(wav, 2048, axis=1)[:, ::512] * np.hanning(2048)
    left, right = np.fft.rfft(frames)[..., :480]

    def bands(values: np.ndarray) -> np.ndarray:
        return values.sum(0).reshape(40, 12).sum(1)

    return bands((left * right.conj()).real) / np.sqrt(bands(np.abs(left) ** 2) * bands(np.abs(right) ** 2))


def test_left_is_red_right_is_green_and_the_phase_between_them_is_blue():
    codec = codec_of(Channels.stereo_phase)
    tones = np.concatenate([tone(440.0, 0.5, RATE_HZ), 0.5 * tone(440.0, 0.5, RATE_HZ)])
    in_phase, opposite = codec.encode_long(tones).image, codec.encode_long(tones * [[1], [-1]]).image
    row, column = np.unravel_index(in_phase[..., 0].argmin(), in_phase.shape[:2])
    assert in_phase[row, column, 0] < in_phase[row, column, 1] < 255
    np.testing.assert_array_equal(in_phase[..., :2], opposite[..., :2])
    assert in_phase[row, column, 2] == 255
    assert opposite[row, column, 2] == 0


def test_coherence_survives_where_channels_of_their_own_lose_it():
    wav = mixture()
    errors = {}
    for channels in (Channels.stereo_phase, Channels.stereo):
        codec = codec_of(channels)
        decoded = codec.decode(codec.encode_long(wav).image)
        errors[channels] = np.abs(coherence(decoded) - coherence(wav)).mean()
    assert errors[Channels.stereo_phase] < 0.06
    assert errors[Channels.stereo] > 3 * errors[Channels.stereo_phase]


def test_opposite_channels_cancel_in_the_mono_sum_and_equal_ones_do_not():
    codec = codec_of(Channels.stereo_phase)
    for sign, sum_db in ((1, 6.0), (-1, -20.0)):
        wav = tone(700.0, 1.0, RATE_HZ)
        decoded = codec.decode(codec.encode_long(np.concatenate([wav, sign * wav])).image, quality="draft")
        relative_db = level_db(decoded.sum(0)) - level_db(decoded[0])
        assert abs(relative_db - 6.0) < 0.5 if sign == 1 else relative_db < sum_db


def test_a_grey_image_is_both_channels_in_phase():
    codec = codec_of(Channels.stereo_phase)
    grey = codec.encode_long(tone(500.0, 0.5, RATE_HZ)).image[..., 0]
    left, right = codec.decode(grey, quality="draft")
    np.testing.assert_allclose(left, right, atol=1e-5)


def test_silence_is_white_and_silent():
    codec = codec_of(Channels.stereo_phase)
    image = codec.encode_long(np.zeros((2, RATE_HZ // 2), np.float32)).image
    assert (image == 255).all()
    assert not codec.decode(image).any()
