"""The channels with which a track is measured and cut: those of its images."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from support.nano import NANO_SPECTROGRAM

from data_prep.tracks import track_store, windows
from data_prep.tracks.track_store import TrackResult, TrackStore
from data_prep.tracks.track_worker import CutParameters, TrackWorker, choose_mix, mix_channels
from riffusion_train.audio import read
from riffusion_train.audio.loudness import measure_lufs
from riffusion_train.audio.write import write_audio
from riffusion_train.config.spectrogram import Channels

RATE_HZ = NANO_SPECTROGRAM.rate_hz


def noise(channels: int, seconds: float = 3.0) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (channels, round(seconds * RATE_HZ))).astype(np.float32)


def cut(path: Path, **others: Any) -> TrackResult:
    parameters = CutParameters(
        NANO_SPECTROGRAM, NANO_SPECTROGRAM.clip_s, NANO_SPECTROGRAM.clip_s, -60.0, -14.0, -1.0, **others
    )
    return TrackWorker(parameters, TrackStore(path.parent, "key"))(str(path))


@pytest.mark.parametrize(
    ("channels", "count", "left"),
    [(Channels.mono, 1, 1), (Channels.mono, 2, 1), (Channels.mono, 6, 1), (Channels.stereo, 1, 1), (Channels.stereo, 2, 2),
     (Channels.stereo, 6, 1), (Channels.stereo_phase, 2, 2)],
)  # fmt: skip
def test_a_sound_is_mixed_down_to_the_channels_of_the_images(channels: Channels, count: int, left: int) -> None:
    wav = noise(count, 0.1)
    mixed = mix_channels(channels, wav)
    assert mixed.shape == (left, wav.shape[1])
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed.mean(axis=0), wav.mean(axis=0), atol=1e-7)


def test_the_loudness_of_a_track_is_that_of_its_mono_mix_if_the_images_are_mono(tmp_path: Path) -> None:
    wav = noise(2)
    write_audio(tmp_path / "track.wav", wav, RATE_HZ)
    result = cut(tmp_path / "track.wav")
    assert result.lufs == pytest.approx(measure_lufs(wav.mean(axis=0, keepdims=True), RATE_HZ), abs=0.01)
    assert result.slices


def test_of_a_track_whose_channels_cancel_the_loudest_is_used(tmp_path: Path) -> None:
    left = noise(1)
    write_audio(tmp_path / "track.wav", np.concatenate([left, -left]), RATE_HZ)
    write_audio(tmp_path / "left.wav", left, RATE_HZ)
    result, alone = cut(tmp_path / "track.wav"), cut(tmp_path / "left.wav")
    assert (result.slices, result.lufs) == (alone.slices, alone.lufs)
    assert result.slices
    assert "channel 1 alone is used; invert one channel" in result.warnings["channels cancel"]
    assert not alone.warnings


@pytest.mark.parametrize(("share", "warned"), [(0.0, False), (-0.5, False), (-0.9, True), (0.9, False)])
def test_a_mix_that_loses_much_of_a_track_is_warned_of_and_stays(share: float, warned: bool) -> None:
    first, second = np.random.default_rng(1).normal(0, 0.1, (2, 4000)).astype(np.float32)
    wav = np.stack([first, np.float32(share) * first + np.float32((1 - share**2) ** 0.5) * second])
    mix, problem = choose_mix(Channels.mono, [wav[:, :1500], wav[:, 1500:]], 2)
    np.testing.assert_array_equal(mix(wav), mix_channels(Channels.mono, wav))
    assert ("largely cancel" in (problem or "")) == warned


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_a_track_in_blocks_and_in_a_file_is_cut_as_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Clipped, off centre, with a silent stretch and another rate than the images: all samples count in what is measured."""
    rate_hz, path = 44100, tmp_path / name
    wav = np.random.default_rng(0).normal(0.02, 0.4, (2, 12 * rate_hz)).clip(-1, 1).astype(np.float32)
    wav[:, 5 * rate_hz : 7 * rate_hz] = 0
    soundfile.write(path, wav.T, rate_hz)
    others = {
        "acoustic": True,
        "skip_silence": True,
        "remove_dc": True,
        "random_crops": 2,
        "measure": ("bpm", "loudness"),
    }
    results = []
    for block, held_bytes, spooled_bytes in ((1 << 30, 1 << 30, 1 << 30), (9_999, 100_000, 1_000)):
        monkeypatch.setattr(read, "_BLOCK_SAMPLES", block)
        monkeypatch.setattr(read, "_HELD_BYTES", held_bytes)
        monkeypatch.setattr(track_store, "_SPOOLED_BYTES", spooled_bytes)
        monkeypatch.setattr(track_store, "_ROWS_AT_ONCE", 2)
        result = cut(path, **others)
        store = TrackStore(tmp_path, "key")
        results.append((result, list(store.read_slices(result.file_hash))))
        store.path(result.file_hash).unlink()
        assert sorted(file.name for file in tmp_path.iterdir()) == [name], "temporary files have no name"
    assert results[0] == results[1]
    assert results[0][0].slices == len(results[0][1]) > 3


def test_the_beats_of_a_long_recording_are_found_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rate_hz = 22050
    wav = np.zeros((1, 40 * rate_hz), np.float32)
    wav[0, :: rate_hz // 2] = 1.0  # a click twice a second
    monkeypatch.setattr(windows, "_WHOLE_S", 20.0)
    monkeypatch.setattr(windows, "_PIECE_S", 10.0)
    beats = np.array(windows.find_beats_of(read.Samples.of(wav), rate_hz)) / rate_hz
    assert len(beats) > 60
    assert (np.diff(beats) > 0).all()
    np.testing.assert_allclose(np.median(np.diff(beats)), 0.5, atol=0.03)


def test_only_the_workers_load_torch() -> None:
    code = "import sys, data_prep.pipeline, riffusion_train.audio.plots; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
