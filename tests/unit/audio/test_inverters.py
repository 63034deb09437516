import functools

import numpy as np
import pytest
import torch
from support.sounds import noise, pitch_hz, tone

from riffusion_train.audio.codec import EncodedClip, SpectrogramCodec, make_codec
from riffusion_train.audio.decoder import noise_variance
from riffusion_train.audio.kernels import BandedProduct, project
from riffusion_train.audio.stft import heap_integrated_phase
from riffusion_train.config.spectrogram import Inverter, load_preset
from riffusion_train.runtime.errors import InputError

INVERTERS = tuple(Inverter.__members__)


@functools.cache
def small() -> SpectrogramCodec:
    return make_codec(load_preset("small"))


@functools.cache
def clip() -> EncodedClip:
    return small().encode_long(tone(1000.0, 1.5, 22050) + noise(1.5, 22050, amplitude=0.003))


@pytest.mark.parametrize("inverter", INVERTERS)
def test_every_inverter_gives_the_tone_and_the_same_sound_again(inverter: str):
    decoded, again = (
        small().decode(clip().image, clip().max_value, quality="draft", inverter=inverter, seed=3) for _ in range(2)
    )
    np.testing.assert_array_equal(decoded, again)
    assert decoded.shape == (1, (clip().image.shape[1] - 1) * 882)
    assert pitch_hz(decoded[0], 22050) == pytest.approx(1000.0, rel=0.03)


@pytest.mark.parametrize("inverter", INVERTERS)
def test_a_batch_gives_what_its_clips_give_alone(inverter: str):
    other = small().encode_long(noise(1.5, 22050))
    images = torch.from_numpy(np.stack([clip().image, other.image, np.full_like(other.image, 255)]))
    maxima = [clip().max_value, other.max_value, 0.0]
    batch = small().decode_batch(images, maxima, quality="draft", inverter=inverter).numpy()
    for wav, image, maximum in zip(batch, images, maxima, strict=True):
        alone = small().decode(image, maximum, quality="draft", inverter=inverter)
        np.testing.assert_allclose(wav, alone, atol=1e-5)
    assert not batch[2].any()


def test_griffin_lim_leaves_the_random_state_of_the_caller_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    small().decode(clip().image[:, :20], quality="draft", inverter="griffin_lim")
    assert torch.equal(torch.rand(3), expected)


def test_heap_integration_comes_nearer_than_the_compatible_inverter():
    errors = {}
    for inverter in INVERTERS:
        again = small().encode_long(small().decode(clip().image, clip().max_value, inverter=inverter))
        errors[inverter] = np.abs(again.image.astype(int) - clip().image).mean()
    assert errors["pghi"] < errors["griffin_lim"]
    assert errors["fast_griffin_lim"] < errors["griffin_lim"]


def test_an_unknown_inverter_is_refused_with_the_choices():
    with pytest.raises(
        InputError, match="inverter=wavenet is unknown; choose from: pghi, fast_griffin_lim, griffin_lim"
    ):
        small().decode(clip().image, inverter="wavenet")


def test_a_banded_product_is_the_product():
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.arange(300)[:, None], torch.arange(90)[None]
    matrix = torch.rand(300, 90, generator=generator) * ((rows / 3 - columns).abs() < 4)
    matrix[:, 40] = 0  # a filter so narrow that no frequency falls into it
    matrix[280:] = 0
    product = BandedProduct(matrix, columns=16)
    left = torch.rand(2, 5, 300, generator=generator)
    torch.testing.assert_close(product(left), left @ matrix)
    torch.testing.assert_close(product(left[..., : product.rows_used]), left @ matrix)


def test_the_projection_keeps_the_direction_and_sets_the_magnitude():
    generator = torch.Generator().manual_seed(0)
    now, before = torch.randn(2, 2, 7, 9, dtype=torch.complex64, generator=generator)
    magnitudes = torch.rand(2, 7, 9, generator=generator)
    ahead = now - 0.4 * before
    torch.testing.assert_close(project(now, before, 0.4, magnitudes), ahead / ahead.abs() * magnitudes)
    torch.testing.assert_close(project(now, None, 0.4, magnitudes), now / now.abs() * magnitudes)


def test_heap_integration_goes_on_from_a_known_phase():
    wav = torch.sin(2 * torch.pi * 0.05 * torch.arange(4096))
    spectrum = torch.fft.rfft(wav.unfold(0, 512, 128) * torch.hann_window(512))
    turned = spectrum * torch.polar(torch.tensor(1.0), torch.tensor(1.3))
    found = heap_integrated_phase(turned.abs(), 512, 128, 512, known=turned[:3])
    agreement = (found * turned.conj()).real[3:8].sum() / turned.abs()[3:8].sum()
    assert agreement > 0.9


@pytest.mark.parametrize("sigma", [0, 4, 8])
def test_noise_on_an_image_is_measured_and_clean_music_has_none(sigma: int):
    codec = make_codec(load_preset("hifi"))
    sound = sum(tone(220.0 * k, 1.5, 44100, 0.2 / k) for k in range(1, 30)) + noise(1.5, 44100, amplitude=0.01)
    image = codec.encode_long(sound).image
    noisy = image + sigma * np.random.default_rng(0).standard_normal(image.shape)
    intensity = torch.from_numpy(1 - noisy.clip(0, 255) / 255).float().flip(0).T[None, None]
    levels = float(noise_variance(intensity, codec.config).sqrt()) * 255
    assert levels == pytest.approx(sigma, abs=0.15 * sigma + 1.2)
