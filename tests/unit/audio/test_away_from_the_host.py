"""What a GPU runs: torch's operations instead of numba's loops, here on the CPU, beside the loops."""

import numpy as np
import pytest
import torch
from support.sounds import noise, tone

from riffusion_train.audio import kernels
from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.compare import compare_sounds
from riffusion_train.audio.mel import draw_images
from riffusion_train.config.spectrogram import load_preset


def music(rate_hz: int, duration_s: float, channels: int) -> np.ndarray:
    plucked = tone(440.0, duration_s, rate_hz) * np.exp(-3 * (np.arange(round(duration_s * rate_hz)) / rate_hz % 0.25))
    sides = [plucked + noise(duration_s, rate_hz, amplitude=0.01 * side) for side in range(1, channels + 1)]
    return np.concatenate(sides).astype(np.float32)


@pytest.mark.parametrize(
    ("preset", "inverter"),
    [("hifi", "pghi"), ("hifi", "fast_griffin_lim"), ("riffusion_v1", "pghi"), ("hifi_stereo", "pghi")],
)
def test_torch_gives_the_sound_of_the_loops(preset: str, inverter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = make_codec(load_preset(preset))
    wav = music(codec.rate_hz, 1.3, 2 if preset == "hifi_stereo" else 1)
    encoded = codec.encode_long(wav)
    loops = codec.decode(encoded.image, encoded.max_value, quality="draft", inverter=inverter)
    monkeypatch.setattr(kernels, "on_host", lambda tensor: False)
    away = make_codec(load_preset(preset))
    assert np.abs(away.encode_long(wav).image.astype(int) - encoded.image).max() <= 1
    images = torch.from_numpy(np.stack([encoded.image, encoded.image[::-1].copy(), encoded.image]))
    found = away.decode_batch(images, [encoded.max_value] * 3, quality="draft", inverter=inverter).numpy()
    assert np.array_equal(found[0], found[2])
    assert compare_sounds(loops, codec.rate_hz, found[0], codec.rate_hz).log_mel_db < 0.1


@pytest.mark.parametrize("preset", ["hifi", "riffusion_v1"])
@pytest.mark.parametrize("loudest", [1.0, 1e4, 1e9])
def test_images_are_drawn_alike(preset: str, loudest: float, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_preset(preset)
    mels = loudest * torch.rand(3, 1, 50, config.n_mels, generator=torch.Generator().manual_seed(0)) ** 8
    mels[1] = 0
    loops, maxima = draw_images(mels, None, config)
    monkeypatch.setattr(kernels, "on_host", lambda tensor: False)
    images, others = draw_images(mels, None, config)
    # torch's square root errs in the last bit on some processors: about one pixel in a million changes its level.
    differences = (loops.int() - images.int()).abs()
    assert int(differences.max()) <= 1 and int(differences.sum()) <= 3
    assert maxima.equal(others)
    assert (loops[1] == 255).all() and int(loops[0].min()) < 255


@pytest.mark.parametrize("preset", ["hifi", "riffusion_v1", "hifi_stereo"])
def test_encoding_stays_on_the_device_of_the_sound(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = make_codec(load_preset(preset))
    channels = 2 if preset == "hifi_stereo" else 1
    monkeypatch.setattr(torch, "isfinite", lambda maxima: torch.ones((), dtype=torch.bool))  # there are no values
    images, maxima = codec.encode_batch(torch.empty(2, channels, codec.clip_samples, device="meta"))
    assert (images.device.type, maxima.device.type) == ("meta", "meta")
    assert images.shape[:3] == (2, 512, 512)
