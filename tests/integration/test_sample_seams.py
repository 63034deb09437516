"""Joins that nobody hears, and memory that does not grow: walks, long pieces and loops."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.sampling import COARSE, join_is_hidden, write_nano_model

from riffusion_train.audio.read import read_audio
from riffusion_train.sampling.sampler import Sampler

CLIP_SAMPLES = 32 * 400


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nano_model(tmp_path_factory.mktemp("seams") / "model")


@pytest.fixture(scope="module")
def sampler(model: Path) -> Sampler:
    return Sampler.load(model, device="cpu", num_inference_steps=3)


@pytest.mark.parametrize("seed_image", [None, "pad"])
def test_clips_of_a_walk_join_without_a_step(sampler: Sampler, seed_image: str | None) -> None:
    walk = sampler.walk(["a", "b"], clips=3, seed_image=seed_image)
    assert walk.audio.shape == (1, 4 * CLIP_SAMPLES)
    for join in range(1, 4):
        assert join_is_hidden(walk.audio[0], join * CLIP_SAMPLES, sampler.codec.rate_hz), join


@pytest.mark.parametrize("duration_s", [None, 2.5])
def test_the_end_of_a_loop_meets_its_beginning(sampler: Sampler, duration_s: float | None) -> None:
    loop = sampler.loop("a", duration_s=duration_s, seed=2).audio[0]
    assert join_is_hidden(np.concatenate([loop, loop]), len(loop), sampler.codec.rate_hz)


def test_windows_of_a_long_piece_join_without_a_step(sampler: Sampler) -> None:
    wav = sampler.long_form("a", 6.0).audio[0]
    for join in range(CLIP_SAMPLES // 2, len(wav) - CLIP_SAMPLES, CLIP_SAMPLES // 2):
        assert join_is_hidden(wav, join, sampler.codec.rate_hz), join


def test_a_join_that_can_be_heard_is_found() -> None:
    time = np.arange(32000) / 16000
    tone = np.sin(2 * np.pi * 440 * time)
    cut = np.concatenate([tone[:16000], -tone[16000:] + 0.3])
    assert join_is_hidden(tone, 16000, 16000)
    assert not join_is_hidden(cut, 16000, 16000)


_RENDER = """
import sys, resource
from riffusion_train.sampling.sampler import Sampler
sampler = Sampler.load(sys.argv[1], device="cpu", num_inference_steps=1, quality="draft")
for minutes in (1, 10):
    sampler.long_form("a", 60.0 * minutes, guidance_scale=1.0).save(f"{sys.argv[2]}/{minutes}")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_ten_minutes_take_hardly_more_memory_than_one(tmp_path: Path) -> None:
    model = write_nano_model(tmp_path / "coarse", COARSE)

    arguments = [sys.executable, "-c", _RENDER, str(model), str(tmp_path)]
    printed = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    one, ten = (int(line) for line in printed.split()[-2:])
    wav, rate_hz = read_audio(tmp_path / "10.wav")
    assert wav.shape[1] == 600 * rate_hz
    assert ten <= 1.2 * one, f"{ten / 1024:.0f} MiB after {one / 1024:.0f}"
