import numpy as np
import pytest
import torch
from support.sounds import noise

from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.stft import CircularStft, resample_loop, stretch_loop
from riffusion_train.config.spectrogram import load_preset


def test_the_circular_transform_and_its_inverse_give_the_sound_back() -> None:
    stft = CircularStft(win_length=800, hop_length=200, n_fft=1024)
    sound = torch.from_numpy(noise(0.5, 16000))
    assert torch.allclose(stft.inverse(stft.forward(sound, 40)), sound, atol=1e-5)
    turned = stft.forward(sound.roll(400, -1), 40)
    assert torch.allclose(turned.roll(-2, -2), stft.forward(sound, 40), atol=1e-4)


def test_the_last_sample_of_a_loop_meets_its_first() -> None:
    config = load_preset("tiny")
    codec = make_codec(config)
    samples = config.width_px * config.hop_length
    phase = np.arange(3 * samples) / samples
    sound = 0.2 * sum(np.sin(2 * np.pi * turns * phase) for turns in (1127, 1801, 2999))
    drawn = codec.encode_long(sound.astype(np.float32)[None])
    image = drawn.image[:, config.width_px : 2 * config.width_px]
    loop = codec.decode_loop(image, drawn.max_value)
    assert loop.shape == (1, samples)
    assert loop.std() == pytest.approx(sound.std(), rel=0.5)
    twice = np.concatenate([loop, loop], axis=1)[0]
    steps = np.abs(np.diff(twice))
    assert steps[samples - 1] <= np.percentile(steps, 99.9)


def test_a_loop_is_resampled_round_its_ends() -> None:
    phase = np.arange(8000) / 8000
    loop = np.sin(2 * np.pi * 125 * phase).astype(np.float32)[None]
    finer = resample_loop(loop, 16000, 48000, 400)
    expected = np.sin(2 * np.pi * 125 * np.arange(24000) / 24000)
    assert np.abs(finer[0] - expected).max() < 1e-3


def test_a_stretched_loop_still_goes_round() -> None:
    loop = np.sin(2 * np.pi * 50 * np.arange(8000) / 8000).astype(np.float32)[None]
    longer = stretch_loop(loop, 8123)
    assert np.abs(longer[0] - np.sin(2 * np.pi * 50 * np.arange(8123) / 8123)).max() < 1e-4
