"""Equal, nearly equal and clipped tracks in one run."""

import json

import numpy as np
import pytest
import soundfile
from support.corpus_files import RATE_HZ, write_tones, write_track
from support.sounds import music

from data_prep.pipeline import prepare
from data_prep.tracks import track_worker
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.runtime.errors import InputError


def manifest_of(audio, out, *arguments):
    base = [f"audio={audio}", f"out={out}", "spectrogram=tiny", "num_workers=0", "default_caption=x"]
    folder = prepare(compose("prepare", PrepareConfig, [*base, *arguments]))
    with (folder.path / "manifest.jsonl").open() as lines:
        return {entry["source"]: entry for entry in map(json.loads, lines)}


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    for seed in range(4):
        write_track(folder / f"song-{seed}.wav", music(seed, 7.0))
        soundfile.write(folder / f"zcopy-{seed}.flac", soundfile.read(folder / f"song-{seed}.wav")[0], RATE_HZ)
        write_track(folder / f"zlossy-{seed}.mp3", 0.5 * music(seed, 7.0))
    write_track(folder / "hot.wav", np.clip(9 * music(20, 7.0), -1, 1))
    return folder


def groups_in_two_splits(manifest):
    splits = {}
    for source, entry in manifest.items():
        splits.setdefault(source.split("-")[-1].split(".")[0], set()).add(entry["split"])
    return [group for group, found in splits.items() if len(found) > 1]


def test_equal_and_alike_tracks_stay_in_one_split(audio, tmp_path):
    manifest = manifest_of(audio, tmp_path / "out", "near_duplicates=group", "validation_ratio=0.4")
    assert groups_in_two_splits(manifest) == []
    assert {entry["split"] for entry in manifest.values()} == {"train", "validation"}
    assert list(manifest["hot.wav"]["warnings"]) == ["clipped"]


def test_equal_and_alike_tracks_are_dropped_on_request_with_the_name_of_the_first(audio, tmp_path):
    manifest = manifest_of(audio, tmp_path / "out", "duplicates=drop", "near_duplicates=drop", "max_clipped=0.01")
    dropped = {source: entry["detail"] for source, entry in manifest.items() if entry["reason"] == "duplicate"}
    assert set(dropped) == {f"{kind}" for seed in range(4) for kind in (f"zcopy-{seed}.flac", f"zlossy-{seed}.mp3")}
    assert dropped["zcopy-3.flac"] == "the same samples as song-3.wav"
    assert "of its fingerprint is that of song-3.wav" in dropped["zlossy-3.mp3"]
    assert manifest["hot.wav"]["reason"] == "clipped"


def test_an_extended_dataset_cuts_no_copy_and_nothing_that_balance_left_out_again(tmp_path, monkeypatch):
    folder = tmp_path / "audio"
    for seed in range(3):
        write_track(folder / f"song-{seed}.wav", music(seed, 21.0))
    soundfile.write(folder / "zcopy-0.flac", soundfile.read(folder / "song-0.wav")[0], RATE_HZ)
    write_track(folder / "zlossy-1.mp3", 0.5 * music(1, 21.0))
    write_track(folder / "empty.wav", 0 * music(0, 6.0))
    rare = write_track(folder / "rare.wav", music(9, 5.2))
    for path in folder.glob("*.*"):
        path.with_suffix(".json").write_text(json.dumps({"genre": "rare" if path.stem.startswith("rare") else "usual"}))
    arguments = ("duplicates=drop", "near_duplicates=drop", "balance_column=genre", "validation_ratio=0", "stride_s=4")
    first = manifest_of(folder, tmp_path / "out", *arguments)
    assert {source: entry["reason"] for source, entry in first.items() if entry["reason"]} == {
        "zcopy-0.flac": "duplicate",
        "zlossy-1.mp3": "duplicate",
        "empty.wav": "silent",
    }
    write_track(folder / "rare-2.wav", music(10, 13.2))  # so the usual ones may have more slices than before
    (folder / "rare-2.json").write_text(rare.with_suffix(".json").read_text())
    decoded = []
    decode = track_worker.decode_audio
    monkeypatch.setattr(
        track_worker, "decode_audio", lambda path, *rest: decoded.append(path.name) or decode(path, *rest)
    )
    extended = manifest_of(folder, tmp_path / "out", *arguments)
    assert decoded == ["rare-2.wav"]
    assert extended == manifest_of(folder, tmp_path / "fresh", *arguments)
    (folder / "song-0.wav").unlink()  # now its copy stands for it
    decoded.clear()
    assert manifest_of(folder, tmp_path / "out", *arguments)["zcopy-0.flac"]["status"] == "kept"
    assert decoded == []
    manifest_of(folder, tmp_path / "fresh", *arguments)
    for out in ("out", "fresh"):
        assert json.loads((tmp_path / out / "stats.json").read_text())["totals"]["slices"] == 8
    shards = [(tmp_path / out / "data" / "train-00000.parquet").read_bytes() for out in ("out", "fresh")]
    assert shards[0] == shards[1]


def test_an_offset_is_removed_on_request(tmp_path):
    folder = write_tones(tmp_path / "audio", 1)
    write_track(folder / "offset.wav", music(0, 5.2) * 0.3 + 0.2)
    before = manifest_of(folder, tmp_path / "a")["offset.wav"]
    after = manifest_of(folder, tmp_path / "b", "remove_dc=true")["offset.wav"]
    assert after["gain_db"] > before["gain_db"] + 1  # the offset had taken up headroom


def test_a_similarity_that_different_music_reaches_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"near_duplicate_similarity=0\.5"):
        manifest_of(write_tones(tmp_path / "audio", 1), tmp_path / "out", "near_duplicate_similarity=0.5")
