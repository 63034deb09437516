import dataclasses
import functools

import numpy as np
import PIL.Image
import pytest
import torch
from support.sounds import level_db, noise, pitch_hz, tone
from torchaudio.functional import melscale_fbanks

from riffusion_train.audio.codec import UNKNOWN_LEVEL_PEAK, SpectrogramCodec, make_codec
from riffusion_train.config.spectrogram import Channels, SpectrogramConfig, load_preset
from riffusion_train.runtime.errors import InputError

PRESETS = ("riffusion_v1", "hifi", "small")


@functools.cache
def codec_of(preset: str, channels: Channels = Channels.mono) -> SpectrogramCodec:
    return make_codec(dataclasses.replace(load_preset(preset), channels=channels))


def clip_of(codec: SpectrogramCodec, frequency_hz: float) -> np.ndarray:
    return tone(frequency_hz, codec.clip_s, codec.rate_hz)


def original_image(int16: np.ndarray) -> tuple[np.ndarray, float]:
    """The published formula in double precision by numpy alone: int16 (channels, samples) to levels (channels, 512, frames)."""
    padded = np.pad(int16.astype(np.float64), ((0, 0), (8820, 8820)), mode="reflect")
    starts = range(0, padded.shape[1] - 17640 + 1, 441)
    window = np.zeros(17640)
    window[6615:11025] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(4410) / 4410)
    frames = np.stack([padded[:, start : start + 17640] * window for start in starts], 1)
    edges_hz = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 10000 / 700), 514) / 2595) - 1)
    bins_hz = np.arange(8821) * 2.5
    rising = (bins_hz[:, None] - edges_hz[:-2]) / np.diff(edges_hz)[:-1]
    falling = (edges_hz[2:] - bins_hz[:, None]) / np.diff(edges_hz)[1:]
    data = np.abs(np.fft.rfft(frames)) @ np.maximum(0, np.minimum(rising, falling))
    levels = (255 - (data / data.max()) ** 0.25 * 255).astype(np.uint8)
    return levels.transpose(0, 2, 1)[:, ::-1], float(data.max())


def assert_the_same_picture(image: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(image.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.9995


def test_riffusion_v1_makes_the_image_of_the_original_formula():
    codec = codec_of("riffusion_v1")
    wav = noise(2.0, 44100, amplitude=0.05) + tone(523.25, 2.0, 44100)
    int16 = (wav * 32767).astype(np.int16)
    encoded = codec.encode_long((int16 / 32768).astype(np.float32))
    expected, maximum = original_image(int16)
    assert encoded.image.shape == (512, 1 + len(int16[0]) // 441)
    assert_the_same_picture(encoded.image, expected[0])
    assert encoded.max_value == pytest.approx(maximum, rel=1e-5)


def test_riffusion_v1_rounds_as_the_original_did_where_a_pure_tone_leaves_nothing_else():
    codec = codec_of("riffusion_v1")
    wav = tone(523.25, 2.0, 44100)
    samples = torch.from_numpy(wav * np.float32(32768))
    spectrum = torch.stft(samples, 17640, 441, 4410, torch.hann_window(4410), pad_mode="reflect", return_complex=True)
    filters = melscale_fbanks(8821, 0.0, 10000.0, 512, 44100, norm=None, mel_scale="htk")
    mels = (spectrum.abs()[0].T @ filters).numpy()
    expected = (255 - (mels / mels.max()) ** 0.25 * 255).astype(np.uint8).T[::-1]
    assert_the_same_picture(codec.encode_long(wav).image, expected)


def test_riffusion_v1_stereo_puts_left_in_green_and_right_in_blue_on_one_scale():
    tones = np.concatenate([tone(440, 1.0, 44100), tone(2000, 1.0, 44100, 0.1)])
    # Noise, as where there is next to nothing single precision has a rounding of its own.
    int16 = ((tones + noise(1.0, 44100, amplitude=0.01)) * 32767).astype(np.int16)
    encoded = codec_of("riffusion_v1", Channels.stereo).encode_long((int16 / 32768).astype(np.float32))
    expected, maximum = original_image(int16)
    assert_the_same_picture(encoded.image[..., 1:], np.moveaxis(expected, 0, 2))
    assert not encoded.image[..., 0].any()
    assert encoded.max_value == pytest.approx(maximum, rel=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("frequency_hz", [220.0, 2500.0])
def test_decoding_an_encoded_tone_keeps_its_pitch_and_level(preset: str, frequency_hz: float):
    codec = codec_of(preset)
    wav = clip_of(codec, frequency_hz)
    encoded = codec.encode(wav)
    decoded = codec.decode(encoded.image[:, : codec.config.width_px // 2], encoded.max_value)
    assert decoded.dtype == np.float32
    # A band of `small` is 4 % wide here; the others tell 1 % apart.
    assert pitch_hz(decoded[0], codec.rate_hz) == pytest.approx(frequency_hz, rel=0.03 if preset == "small" else 0.01)
    # A band says how much, not how it is spread inside: a tone in a wide band comes back as a narrow noise, and softer.
    assert level_db(decoded[0]) == pytest.approx(level_db(wav[0]), abs=5.0 if preset == "small" else 1.0)


@pytest.mark.parametrize("preset", PRESETS)
def test_decoding_then_encoding_gives_nearly_the_same_image(preset: str):
    codec = codec_of(preset)
    # Loudest in the middle: the columns at the edges see a reflection, which no sound can match, and must not set the scale.
    wav = noise(2.0, codec.rate_hz) * (0.1 + np.hanning(2 * codec.rate_hz)).astype(np.float32)
    encoded = codec.encode_long(wav)
    again = codec.encode_long(codec.decode(encoded.image, encoded.max_value))
    difference = np.abs(again.image.astype(int) - encoded.image.astype(int))
    assert difference.mean() < 4.0
    assert again.max_value == pytest.approx(encoded.max_value, rel=0.1)


def test_a_decoded_column_sounds_at_its_own_time():
    codec = codec_of("small")
    wav = np.zeros((1, codec.clip_samples), np.float32)
    middle = codec.clip_samples // 2
    wav[:, middle : middle + codec.rate_hz // 4] = tone(1000, 0.25, codec.rate_hz)
    encoded = codec.encode(wav)
    decoded = codec.decode(encoded.image, encoded.max_value)[0]
    centre = np.average(np.arange(len(decoded)), weights=decoded.astype(np.float64) ** 2)
    assert centre / codec.rate_hz == pytest.approx((middle + codec.rate_hz / 8) / codec.rate_hz, abs=0.02)


def test_stereo_keeps_left_and_right_apart_and_their_levels():
    codec = codec_of("small", Channels.stereo)
    wav = np.concatenate([clip_of(codec, 300.0), 0.5 * clip_of(codec, 900.0)])
    encoded = codec.encode(wav)
    left, right = codec.decode(encoded.image, encoded.max_value)
    assert pitch_hz(left, codec.rate_hz) == pytest.approx(300.0, rel=0.03)
    assert pitch_hz(right, codec.rate_hz) == pytest.approx(900.0, rel=0.03)
    assert level_db(left) - level_db(right) == pytest.approx(6.0, abs=2.0)


def test_equal_stereo_channels_stay_in_phase():
    codec = codec_of("small", Channels.stereo)
    encoded = codec.encode(noise(codec.clip_s, codec.rate_hz))
    left, right = codec.decode(encoded.image, encoded.max_value)
    np.testing.assert_allclose(left, right, atol=1e-5)


def test_a_stereo_clip_with_one_silent_channel_decodes_to_one_silent_channel():
    codec = codec_of("small", Channels.stereo)
    wav = np.concatenate([clip_of(codec, 300.0), np.zeros((1, codec.clip_samples), np.float32)])
    encoded = codec.encode(wav)
    left, right = codec.decode(encoded.image, encoded.max_value, quality="draft")
    assert level_db(left) > -20
    assert level_db(right) < -90


def test_a_mono_codec_encodes_the_mean_of_the_channels():
    codec = codec_of("small")
    left, right = clip_of(codec, 300.0), clip_of(codec, 900.0)
    both = codec.encode(np.concatenate([left, right]))
    np.testing.assert_array_equal(both.image, codec.encode((left + right) / 2).image)


@pytest.mark.parametrize("channels", list(Channels))
def test_silence_is_white_and_decodes_to_silence(channels: Channels):
    codec = codec_of("small", channels)
    encoded = codec.encode(np.zeros((1, codec.clip_samples), np.float32))
    assert encoded.max_value == 0
    assert (encoded.image[..., 1:] == 255).all()
    for max_value in (encoded.max_value, None):
        decoded = codec.decode(encoded.image, max_value)
        assert decoded.shape == (len(codec.decode(encoded.image)), codec.clip_samples)
        assert not decoded.any()


def test_a_short_clip_is_padded_with_silence_and_a_long_one_is_cut():
    codec = codec_of("small")
    short = codec.encode(tone(440, 1.0, codec.rate_hz))
    assert short.image.shape == (128, 128)
    assert (short.image[:, 60:] == 255).mean() > 0.95
    long = noise(9.0, codec.rate_hz)
    np.testing.assert_array_equal(codec.encode(long).image, codec.encode(long[:, : codec.clip_samples]).image)


@pytest.mark.parametrize("samples", [1, 100, 882 * 40, 882 * 40 + 881, 882 * 200])
def test_encode_long_gives_a_column_for_every_hop_begun(samples: int):
    codec = codec_of("small")
    width = codec.encode_long(noise(10.0, codec.rate_hz)[:, :samples]).image.shape[1]
    # The reflection at the edges needs half an FFT of sound, so the shortest images have three columns.
    assert width == max(1 + samples // 882, 1 + (4096 // 2 + 1) // 882)


def test_a_batch_gives_the_images_of_its_clips():
    codec = codec_of("small")
    wavs = np.stack([noise(2.0, codec.rate_hz, seed) * (seed + 1) for seed in range(3)])
    images, maxima = codec.encode_batch(torch.from_numpy(wavs))
    assert images.dtype == torch.uint8
    for wav, image, maximum in zip(wavs, images, maxima, strict=True):
        alone = codec.encode(wav)
        # Matrix products of another shape may differ in the last bit, and so may a level that sits on an edge.
        difference = np.abs(image.numpy().astype(int) - alone.image.astype(int))
        assert difference.max() <= 1
        assert difference.mean() < 1e-3
        assert float(maximum) == pytest.approx(alone.max_value, rel=1e-5)


def test_decoding_is_deterministic_and_the_seed_matters_only_in_what_is_next_to_silent():
    codec = codec_of("small")
    image = codec.encode(clip_of(codec, 500.0)).image
    first, again, other = (codec.decode(image, seed=seed, quality="draft") for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert abs(level_db(first[0]) - level_db(other[0])) < 1.0


@pytest.mark.parametrize("max_value", [None, 0.0])
def test_without_a_maximum_the_peak_is_the_documented_one(max_value: float | None):
    codec = codec_of("small")
    encoded = codec.encode(clip_of(codec, 500.0) * 0.01)
    assert np.abs(codec.decode(encoded.image, max_value, quality="draft")).max() == pytest.approx(
        UNKNOWN_LEVEL_PEAK, rel=1e-5
    )


def test_every_form_of_an_image_decodes_alike():
    codec = codec_of("small")
    grey = codec.encode(clip_of(codec, 500.0)).image[:, :40]
    colour = np.repeat(grey[..., None], 3, 2)
    expected = codec.decode(grey, quality="draft")
    forms = (colour, PIL.Image.fromarray(grey), PIL.Image.fromarray(colour).convert("RGBA"), grey / 255.0)
    for form in forms:
        np.testing.assert_allclose(codec.decode(form, quality="draft"), expected, atol=1e-3)


def test_more_work_comes_nearer_to_the_image():
    codec = codec_of("small")
    encoded = codec.encode_long(sum(tone(220.0 * k, 2.0, codec.rate_hz) / k for k in range(1, 12)) * 0.5)

    def error(quality: str) -> float:
        again = codec.encode_long(codec.decode(encoded.image, encoded.max_value, quality=quality))
        return float(np.abs(again.image.astype(int) - encoded.image.astype(int)).mean())

    assert error("best") < error("normal") < error("draft")


@pytest.mark.parametrize(
    ("image", "part"),
    [
        (np.zeros((64, 128), np.uint8), "128x64 px does not fit 'small', which is 128 px high"),
        (np.zeros((128, 1), np.uint8), "1x128 px"),
        (np.zeros(128, np.uint8), "does not fit"),
    ],
)
def test_an_image_of_another_size_is_refused_with_the_height_it_needs(image: np.ndarray, part: str):
    with pytest.raises(InputError, match=part):
        codec_of("small").decode(image)


def test_an_unknown_quality_is_refused_with_the_choices():
    with pytest.raises(InputError, match="draft, normal, best"):
        codec_of("small").decode(np.zeros((128, 8), np.uint8), quality="high")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"win_length": 17641}, "win_length <= n_fft"),
        ({"f_max_hz": 12000.0}, "half of rate_hz and of decode_rate_hz"),
        ({"decode_rate_hz": 22050}, "whole number"),
        ({"decode_n_fft": 2239}, "hold the window"),
        ({"width_px": 10}, "raise width_px"),
        ({"rate_hz": 0}, "positive"),
        ({"power": 0.0}, "power and reference_value must be above 0"),
    ],
)
def test_contradictory_parameters_are_refused(change: dict[str, float], part: str):
    with pytest.raises(InputError, match=part):
        make_codec(dataclasses.replace(SpectrogramConfig(), **change))


def test_a_window_that_is_no_whole_number_of_hops_decodes_all_the_same():
    config = dataclasses.replace(load_preset("small"), hop_length=800)
    codec = make_codec(config)
    encoded = codec.encode(clip_of(codec, 440.0))
    assert pitch_hz(codec.decode(encoded.image)[0], codec.rate_hz) == pytest.approx(440.0, rel=0.03)
