"""Nano models on disk, sounds as input, and a measure of audible joins."""

import dataclasses
from pathlib import Path

import numpy as np
from support.models import nano_components
from support.nano import NANO_SPECTROGRAM

from riffusion_train.audio.write import write_audio
from riffusion_train.config.spectrogram import SPECTROGRAM_FILE, SpectrogramConfig
from riffusion_train.model.diffusers_folder import write_model
from riffusion_train.model.weights import as_lazy_model

RATE_HZ = 16000

COARSE = dataclasses.replace(NANO_SPECTROGRAM, hop_length=1600, win_length=3200, n_fft=4096, decode_n_fft=4096)
"""Ten columns per second, to process minutes of sound in seconds."""


def write_nano_model(folder: Path, spectrogram: SpectrogramConfig = NANO_SPECTROGRAM) -> Path:
    """Write the nano model with random weights, whose images are texture; return the folder."""
    components = nano_components()
    components.spectrogram = spectrogram
    write_model(folder, as_lazy_model(components))
    return folder


def write_model_without_codec(folder: Path) -> Path:
    """Write a model without a recorded codec, its latents an eighth as wide as its images as in Stable Diffusion."""
    write_model(folder, as_lazy_model(nano_components("model.vae_block_out_channels=[8,8,8,8]")))
    (folder / SPECTROGRAM_FILE).unlink()
    return folder


def write_melody(path: Path, duration_s: float, *, seed: int = 0) -> Path:
    """Write plucked tones, one every quarter of a second; return the path."""
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    notes = np.random.default_rng(seed).choice([220, 277, 330, 440, 554], size=len(time_s))[:: RATE_HZ // 4]
    wav = sum(
        0.4 * np.exp(-8 * age) * np.sin(2 * np.pi * hz * age) * (age >= 0)
        for hz, age in ((hz, time_s - 0.25 * index) for index, hz in enumerate(notes))
    )
    write_audio(path, np.asarray(wav, np.float32)[None], RATE_HZ)
    return path


def join_is_hidden(wav: np.ndarray, join: int, rate_hz: int) -> bool:
    """Whether sample difference and level change at a join are within the 99.9th percentile of the rest of (samples,)."""
    window = rate_hz // 20
    steps = np.abs(np.diff(wav))
    levels = np.sqrt(np.convolve(np.square(wav, dtype=np.float64), np.ones(window) / window, "valid"))
    # From one window to the next.
    jumps = np.abs(np.log(levels[window:] + 1e-9) - np.log(levels[:-window] + 1e-9))
    at_join = max(join - window, 0)
    elsewhere_steps = np.delete(steps, slice(join - 2, join + 2))
    elsewhere_jumps = np.delete(jumps, slice(max(at_join - window, 0), at_join + window))
    return bool(
        steps[join - 1] <= np.percentile(elsewhere_steps, 99.9)
        and jumps[at_join] <= np.percentile(elsewhere_jumps, 99.9)
    )
