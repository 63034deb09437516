"""The codec on a GPU: the pictures of the CPU, and sounds as good as its own."""

import numpy as np
import pytest
import torch
from support.sounds import noise, tone

from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.compare import compare_sounds
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.sampling.pipeline import best_device

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(best_device() == "cpu", reason="this machine has no GPU")]


@pytest.mark.parametrize("preset", ["hifi", "riffusion_v1", "hifi_stereo"])
@pytest.mark.parametrize("inverter", ["pghi", "fast_griffin_lim"])
def test_a_gpu_draws_the_same_pictures_and_sounds_as_good_and_the_same_again(preset: str, inverter: str) -> None:
    codec = make_codec(load_preset(preset))
    rate_hz = codec.rate_hz
    channels = [tone(330.0, 5.2, rate_hz) + noise(5.2, rate_hz, amplitude=0.01) for _ in range(2)]
    wav = np.concatenate(channels[: 2 if preset == "hifi_stereo" else 1])[:, : codec.clip_samples].astype(np.float32)
    wavs = torch.from_numpy(np.stack([wav, 0.5 * wav]))
    images, maxima = codec.encode_batch(wavs)
    on_gpu, _ = codec.encode_batch(wavs.to(best_device()))
    difference = (on_gpu.cpu().int() - images.int()).abs()
    assert int(difference.max()) <= 1
    assert float((difference == 0).float().mean()) > 0.999
    here = codec.decode_batch(images, maxima.tolist(), inverter=inverter).numpy()
    there, again = (
        codec.decode_batch(images.to(best_device()), maxima.tolist(), inverter=inverter).cpu().numpy() for _ in range(2)
    )
    assert np.array_equal(there, again)
    for row in range(2):
        errors = [
            compare_sounds(wavs[row].numpy()[:, : sound.shape[1]], rate_hz, sound, rate_hz).log_mel_db
            for sound in (here[row], there[row])
        ]
        assert errors[1] < errors[0] + 0.05
