"""Captions by listening: a folder without captions becomes a dataset with them."""

import json

import numpy as np
import pytest
from support.corpus_files import chord, noise, tone, write_track

from data_prep.pipeline import prepare, run
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.runtime.errors import InputError


def config_for(audio, out, *arguments):
    base = [f"audio={audio}", f"out={out}", "spectrogram=tiny", "num_workers=0", "validation_ratio=0", "page_slices=2"]
    return compose("prepare", PrepareConfig, [*base, *arguments])


def rows_of(folder):
    import pyarrow.parquet as pq

    return [row for shard in folder.shards("train") for row in pq.read_table(shard).to_pylist()]


def manifest_of(folder):
    with (folder.path / "manifest.jsonl").open() as lines:
        return {line["source"]: line for line in map(json.loads, lines)}


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    write_track(folder / "said.wav", tone(200, 5.2), "a tone")
    write_track(folder / "chord.wav", np.concatenate([chord(220, 6.0), 0.1 * chord(220, 6.0)], axis=1))
    write_track(folder / "short.wav", noise(0, 1.2))
    write_track(folder / "silent.wav", np.zeros((1, 5 * 44100), np.float32))
    return folder


@pytest.fixture(scope="module")
def dataset(audio, tmp_path_factory):
    return prepare(config_for(audio, tmp_path_factory.mktemp("out") / "dataset", "min_clip_s=1"))


def test_tracks_without_a_caption_are_captioned_by_listening_and_the_others_are_not(dataset):
    manifest = manifest_of(dataset)
    assert dataset.stats["caption_sources"] == {"listening": 2, "sidecars": 1}
    assert "heard" not in manifest["said.wav"] and manifest["silent.wav"]["reason"] == "silent"
    heard = manifest["chord.wav"]["heard"]
    assert heard["starts_s"] == [1.5, 7.5] and max(map(max, heard["scores"].values())) > 0.1
    assert heard["key"] == "A major" and 0.5 < heard["key_strength"] <= 1
    assert len(heard["slices"]) == manifest["chord.wav"]["slices"] > 1
    assert len(manifest["chord.wav"]["listened"]) >= 2
    assert "those of 2 tracks were made by listening" in (dataset.path / "README.md").read_text()
    captions = {row["source"]: row["caption"] for row in rows_of(dataset)}
    assert captions["said.wav"] == ["a tone"]
    assert all(captions["chord.wav"]) and all(captions["short.wav"]), "a track under 3 s is heard as well"


def test_the_page_shows_what_was_heard(dataset):
    page = (dataset.path / "index.html").read_text()
    listened = manifest_of(dataset)["chord.wav"]["listened"]
    assert json.dumps(listened[0])[1:-1] in page
    assert '"key": "A major"' in page or '"key":"A major"' in page


def test_the_report_says_where_the_captions_are_from_and_captions_are_the_same_every_time(
    dataset, audio, tmp_path, capsys
):
    again = prepare(config_for(audio, tmp_path / "again", "min_clip_s=1", "page=false"))
    assert "  captions: 2 by listening, 1 from sidecars\n" in capsys.readouterr().out
    assert again.fingerprint == dataset.fingerprint
    run(config_for(audio, tmp_path / "dry", "dry_run=true"))
    assert "captions on 1 of 4 tracks; 3 would be captioned by listening" in capsys.readouterr().out


def test_a_caption_that_is_taken_away_is_replaced_by_listening_and_one_that_is_added_replaces_it(tmp_path):
    audio = tmp_path / "audio"
    write_track(audio / "a.wav", tone(200, 5.2), "one")
    write_track(audio / "b.wav", tone(300, 5.2))
    before = rows_of(prepare(config_for(audio, tmp_path / "out", "captions=listen", "page=false", "trigger=zuzu")))
    assert before[0]["caption"] == ["zuzu, one"] and all(text.startswith("zuzu, ") for text in before[1]["caption"])
    (audio / "a.txt").rename(audio / "b.txt")
    after = rows_of(prepare(config_for(audio, tmp_path / "out", "captions=listen", "page=false", "trigger=zuzu")))
    assert after[1]["caption"] == ["zuzu, one"] and after[0]["caption"][0].startswith("zuzu, ")
    assert after[0]["caption"] != ["zuzu, one"]


def test_a_default_caption_is_not_replaced_and_keys_that_contradict_are_refused(audio, tmp_path):
    folder = prepare(config_for(audio, tmp_path / "out", "default_caption=music", "page=false"))
    assert folder.stats["caption_sources"] == {"default_caption": 1, "sidecars": 1}
    with pytest.raises(InputError, match="default_caption= has no effect with captions=listen"):
        prepare(config_for(audio, tmp_path / "no", "captions=listen", "default_caption=music"))
    with pytest.raises(InputError, match="listen_patches=0: give 1 or more"):
        prepare(config_for(audio, tmp_path / "no", "listen_patches=0"))
