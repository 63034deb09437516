import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sounds import level_db

from riffusion_train.audio.codec import SpectrogramCodec, make_codec
from riffusion_train.audio.read import resample
from riffusion_train.config.spectrogram import Channels, Scale, load_preset
from riffusion_train.runtime.errors import InputError

KINDS = ("noise", "tone", "silence", "clipped", "constant", "click")
some = settings(max_examples=12, deadline=None, derandomize=True)


@functools.cache
def codec_of(channels: Channels, scale: Scale) -> SpectrogramCodec:
    return make_codec(dataclasses.replace(load_preset("small"), channels=channels, scale=scale, reference_value=2e7))


def sound(kind: str, channels: int, samples: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    time = np.arange(samples)
    made = {
        "noise": 0.1 * random.standard_normal((channels, samples)),
        "tone": 0.3 * np.sin(time * random.uniform(0.03, 2.0, (channels, 1))),
        "silence": np.zeros((channels, samples)),
        "clipped": np.clip(5 * random.standard_normal((channels, samples)), -1, 1),
        "constant": np.full((channels, samples), 0.5),
        "click": (time == samples // 2) * np.ones((channels, 1)),
    }
    return made[kind].astype(np.float32)


@some
@given(
    kind=st.sampled_from(KINDS),
    audio_channels=st.integers(1, 2),
    samples=st.integers(1, 40000),
    layout=st.sampled_from(Channels),
    scale=st.sampled_from(Scale),
    seed=st.integers(0, 3),
)
def test_any_sound_comes_back_with_its_length_channels_and_level(
    kind: str, audio_channels: int, samples: int, layout: Channels, scale: Scale, seed: int
):
    codec = codec_of(layout, scale)
    wav = sound(kind, audio_channels, samples, seed)
    encoded = codec.encode_long(wav)
    width = 1 + max(samples, 2049) // 882
    assert encoded.image.shape == ((128, width) if layout is Channels.mono else (128, width, 3))
    decoded = codec.decode(encoded.image, encoded.max_value, quality="draft")
    assert decoded.shape == (1 if layout is Channels.mono else 2, (width - 1) * 882)
    assert np.isfinite(decoded).all()
    if kind == "silence":
        assert not decoded.any()
    if kind == "noise" and samples > 20000 and (audio_channels == 1 or layout is not Channels.mono):
        # Noise above the top band is lost, half a decibel here.
        assert level_db(decoded[0]) == pytest.approx(level_db(wav[0]), abs=2.0)


@some
@given(rate_hz=st.sampled_from([8000, 11025, 16000, 32000, 44100, 48000, 96000, 192000]), seconds=st.floats(0.05, 1.0))
def test_any_rate_is_brought_to_the_codecs_and_keeps_its_duration(rate_hz: int, seconds: float):
    codec = codec_of(Channels.mono, Scale.per_image)
    wav = sound("tone", 1, round(seconds * rate_hz), 0)
    ready = resample(wav, rate_hz, codec.rate_hz)
    assert ready.shape[1] / codec.rate_hz == pytest.approx(wav.shape[1] / rate_hz, abs=0.002)
    columns = codec.encode_long(ready).image.shape[1]
    assert columns == 1 + max(ready.shape[1], 2049) // 882


@some
@given(
    wrong=st.sampled_from([np.nan, np.inf, -np.inf]), place=st.integers(0, 29999), layout=st.sampled_from(Channels),
    scale=st.sampled_from(Scale),
)  # fmt: skip
def test_samples_that_are_no_numbers_are_one_clear_error(wrong: float, place: int, layout: Channels, scale: Scale):
    wav = sound("noise", 2, 30000, 0)
    wav[0, place] = wrong
    with pytest.raises(InputError, match="not numbers"):
        codec_of(layout, scale).encode(wav)


def test_an_empty_sound_is_one_clear_error():
    codec = codec_of(Channels.mono, Scale.per_image)
    for encode in (codec.encode, codec.encode_long):
        with pytest.raises(InputError, match="empty"):
            encode(np.zeros((1, 0), np.float32))


@some
@given(
    width=st.integers(2, 60), colours=st.booleans(), layout=st.sampled_from(Channels), floats=st.booleans(),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_any_image_of_the_right_height_is_a_sound(width: int, colours: bool, layout: Channels, floats: bool, seed: int):
    random = np.random.default_rng(seed)
    picture = random.uniform(-0.2, 1.2, (128, width, 3) if colours else (128, width))
    image = picture if floats else (picture * 255).clip(0, 255).astype(np.uint8)
    decoded = codec_of(layout, Scale.per_image).decode(image, quality="draft")
    assert decoded.shape == (1 if layout is Channels.mono else 2, (width - 1) * 882)
    assert np.isfinite(decoded).all()
    assert decoded.any()


@pytest.mark.parametrize(
    ("image", "part"),
    [(np.full((128, 9), np.nan), "not numbers"), (np.zeros((128, 9), np.int32), "no known white")],
)
def test_images_of_no_known_level_are_refused(image: np.ndarray, part: str):
    with pytest.raises(InputError, match=part):
        codec_of(Channels.mono, Scale.per_image).decode(image)
