"""How many channels a track has when it is measured and cut: those that its pictures will hold."""

from pathlib import Path

import numpy as np
import pytest
from support.worlds import NANO_SPECTROGRAM

from data_prep.output.track_store import TrackResult
from data_prep.tracks.track_worker import CutParameters, TrackWorker, mixed_for
from riffusion_train.audio.io.loudness import measure_lufs
from riffusion_train.audio.io.write import write_audio
from riffusion_train.config.spectrogram import Channels

RATE_HZ = NANO_SPECTROGRAM.rate_hz


def noise(channels: int, seconds: float = 3.0) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (channels, round(seconds * RATE_HZ))).astype(np.float32)


def cut(path: Path) -> TrackResult:
    parameters = CutParameters(NANO_SPECTROGRAM, NANO_SPECTROGRAM.clip_s, NANO_SPECTROGRAM.clip_s, -60.0, -14.0, -1.0)
    return TrackWorker(parameters, path.parent, "key")(str(path))


@pytest.mark.parametrize(
    ("channels", "count", "left"),
    [(Channels.mono, 1, 1), (Channels.mono, 2, 1), (Channels.mono, 6, 1), (Channels.stereo, 1, 1), (Channels.stereo, 2, 2),
     (Channels.stereo, 6, 1), (Channels.stereo_phase, 2, 2)],
)  # fmt: skip
def test_a_sound_is_mixed_down_to_what_the_pictures_hold(channels: Channels, count: int, left: int) -> None:
    wav = noise(count, 0.1)
    mixed = mixed_for(channels, wav)
    assert mixed.shape == (left, wav.shape[1])
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed.mean(axis=0), wav.mean(axis=0), atol=1e-7)


def test_the_loudness_of_a_track_is_that_of_the_mono_mix_where_the_pictures_are_mono(tmp_path: Path) -> None:
    wav = noise(2)
    write_audio(tmp_path / "track.wav", wav, RATE_HZ)
    facts = cut(tmp_path / "track.wav")
    assert facts.lufs == pytest.approx(measure_lufs(wav.mean(axis=0, keepdims=True), RATE_HZ), abs=0.01)
    assert facts.slices


def test_a_track_whose_channels_cancel_is_silent_in_mono_pictures(tmp_path: Path) -> None:
    left = noise(1)
    write_audio(tmp_path / "track.wav", np.concatenate([left, -left]), RATE_HZ)
    facts = cut(tmp_path / "track.wav")
    assert (facts.reason, facts.slices) == ("silent", 0)
