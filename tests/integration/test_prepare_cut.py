"""Where windows lie in whole runs: tails, silence, beats, crops, caps, balance."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.corpus_files import tone, write_tones, write_track

from data_prep.pipeline import prepare
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.runtime.errors import InputError

CLIP_S = 5.04  # of the preset tiny


def prepared(audio, out, *arguments):
    base = [f"audio={audio}", f"out={out}", "spectrogram=tiny", "num_workers=0", "validation_ratio=0"]
    return prepare(compose("prepare", PrepareConfig, [*base, "default_caption=x", *arguments]))


def starts_of(folder, source="a.wav"):
    rows = [row for shard in folder.shards("train") for row in pq.read_table(shard).to_pylist()]
    return [round(row["start_s"], 2) for row in rows if row["source"] == source]


@pytest.fixture
def audio(tmp_path):
    quiet = np.zeros((1, 44100), np.float32)
    write_track(tmp_path / "audio" / "a.wav", np.concatenate([quiet, tone(200, 12.0), quiet], axis=1))
    return tmp_path / "audio"


def test_the_tail_overlaps_back_and_windows_begin_with_sound(audio, tmp_path):
    assert starts_of(prepared(audio, tmp_path / "a", "tail=overlap")) == [0.0, CLIP_S, round(14 - CLIP_S, 2)]
    skipping = starts_of(prepared(audio, tmp_path / "b", "skip_silence=true", "tail=drop"))
    assert skipping == [pytest.approx(1.0, abs=0.06), pytest.approx(1.0 + CLIP_S, abs=0.06)]


def test_crops_are_added_at_positions_that_the_seed_decides_and_slices_are_capped(audio, tmp_path):
    first = starts_of(prepared(audio, tmp_path / "a", "random_crops=4", "tail=drop"))
    assert len(first) == 6 and first == starts_of(prepared(audio, tmp_path / "b", "random_crops=4", "tail=drop"))
    assert first != starts_of(prepared(audio, tmp_path / "c", "random_crops=4", "tail=drop", "seed=1"))
    assert len(starts_of(prepared(audio, tmp_path / "d", "random_crops=4", "max_slices_per_track=3"))) == 3


def test_a_column_is_balanced_in_the_train_split(tmp_path):
    audio = write_tones(tmp_path / "audio", 5, 11.0)
    genres = ["dub", "dub", "dub", "folk", ""]
    (audio / "captions.csv").write_text(
        "file,genre\n" + "".join(f"tone-{i:03d}.wav,{g}\n" for i, g in enumerate(genres))
    )
    folder = prepared(audio, tmp_path / "out", "balance_column=genre", "balance_ratio=1.5")
    counts = pq.read_table(folder.shards("train")[0])["genre"].value_counts().to_pylist()
    assert {row["values"]: row["counts"] for row in counts} == {"dub": 3, "folk": 2, None: 2}
    assert folder.stats["totals"]["slices"] == 7 == folder.num_slices("train")
    assert folder.stats["totals"]["hours"] == pytest.approx(7 * CLIP_S / 3600)
    with pytest.raises(InputError, match="balance_column=mood: no such column; there are: genre"):
        prepared(audio, tmp_path / "no", "balance_column=mood")


def test_windows_begin_on_beats_and_bars(tmp_path):
    rate_hz, bpm = 22050, 120
    wav = np.zeros((1, 20 * rate_hz), np.float32)
    burst = np.random.default_rng(0).standard_normal(600) * np.exp(-np.arange(600) / 100)
    for number, start_s in enumerate(np.arange(0.25, 19.5, 60 / bpm)):
        at = round(start_s * rate_hz)
        wav[0, at : at + 600] += burst * (0.4 if number % 4 == 1 else 0.15)
    write_track(tmp_path / "audio" / "a.wav", wav, rate_hz=rate_hz)
    on_beats = starts_of(prepared(tmp_path / "audio", tmp_path / "beats", "windows=beats"))
    on_bars = starts_of(prepared(tmp_path / "audio", tmp_path / "bars", "windows=bars"))
    assert len(on_beats) >= 3 and len(on_bars) >= 2
    off_s = [abs((start - 0.25 + 0.25) % 0.5 - 0.25) for start in on_beats]
    assert max(off_s) < 0.06, on_beats
    off_s = [abs((start - 0.75 + 1.0) % 2.0 - 1.0) for start in on_bars]
    assert max(off_s) < 0.06, on_bars
    silent = tmp_path / "still"
    write_track(silent / "a.wav", wav, rate_hz=rate_hz)
    write_track(silent / "short.wav", wav[:, : 4 * rate_hz], rate_hz=rate_hz)
    folder = prepared(silent, tmp_path / "still-out", "windows=bars")
    with (folder.path / "manifest.jsonl").open() as lines:
        reasons = {entry["source"]: entry["reason"] for entry in map(json.loads, lines)}
    assert reasons == {"a.wav": None, "short.wav": "too short"}
