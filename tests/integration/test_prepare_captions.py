"""Where captions come from: sidecars, tags, names, templates, measuring, and a table to review."""

import csv
import json
import re
from pathlib import Path

import mutagen
import pytest
from mutagen.id3 import COMM, TCON
from support.corpus_files import tone, write_tones, write_track

from data_prep.pipeline import prepare, run
from data_prep.tracks import track_worker
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.runtime.errors import InputError

DOCS = Path(__file__).parents[2] / "docs" / "datasets.md"


def config_for(audio, out, *arguments):
    base = [f"audio={audio}", f"out={out}", "spectrogram=tiny", "num_workers=0", "validation_ratio=0", "page=false"]
    return compose("prepare", PrepareConfig, [*base, *arguments])


def rows_of(folder):
    import pyarrow.parquet as pq

    rows = [row for shard in folder.shards("train") for row in pq.read_table(shard).to_pylist()]
    return {row["track_id"]: row for row in rows}


def test_json_sidecars_give_captions_and_columns_and_a_trigger_word_goes_first(tmp_path):
    audio = write_tones(tmp_path / "audio", 3)
    sidecar = {"caption": ["slow dub", "dub"], "bpm": 90, "instruments": ["bass", "organ"], "source": "CD", "parts": {}}
    (audio / "tone-000.json").write_text(json.dumps(sidecar))
    (audio / "tone-001.json").write_text('["a list"]')
    (audio / "tone-002.json").write_text("{")
    folder = prepare(config_for(audio, tmp_path / "out", "trigger=zuzu style"))
    rows = rows_of(folder)
    assert rows["tone-000"]["caption"] == [f"zuzu style, {text}" for text in ("a tone at 110 Hz", "slow dub", "dub")]
    assert rows["tone-000"]["bpm"] == 90 and rows["tone-000"]["instruments"] == "bass, organ"
    assert rows["tone-000"]["sidecar_source"] == "CD" and rows["tone-000"]["source"] == "tone-000.wav"
    assert rows["tone-001"]["caption"][1] == "zuzu style, a list" and rows["tone-001"]["bpm"] is None
    assert folder.stats["rejected"] == {"caption unreadable": 1}


def test_names_and_table_columns_are_composed_into_captions(tmp_path):
    audio = tmp_path / "audio"
    for name in ("dub/Ann - Rain", "dub/Bob - Sun", "folk/Cy - Fog"):
        write_track(audio / f"{name}.wav", tone(200, 5.2))
    (audio / "captions.csv").write_text("file,bpm\ndub/Ann - Rain.wav,90\nfolk/Cy - Fog.wav,\n")
    arguments = ("path_template={genre}/{artist} - {title}", "caption_template={genre} music, {bpm:.0f} bpm")
    folder = prepare(config_for(audio, tmp_path / "out", *arguments))
    rows = rows_of(folder)
    assert {name: row["caption"] for name, row in rows.items()} == {
        "dub/Ann - Rain": ["dub music, 90 bpm"],
        "dub/Bob - Sun": ["dub music"],
        "folk/Cy - Fog": ["folk music"],
    }
    assert rows["folk/Cy - Fog"]["artist"] == "Cy"
    with pytest.raises(InputError, match="no column or field 'mood'; there are artist, bpm, genre, title"):
        prepare(config_for(audio, tmp_path / "no", *arguments[:1], "caption_template={mood}"))


def test_tags_are_captions_and_columns(tmp_path):
    audio = tmp_path / "audio"
    for name in ("a", "b", "c"):
        write_track(audio / f"{name}.mp3", tone(200, 5.2))
    for name, frames in (("a", [COMM(3, "eng", "", "slow dub"), TCON(3, "Dub")]), ("b", [TCON(3, "Folk")])):
        file = mutagen.File(audio / f"{name}.mp3")
        file.add_tags()
        for frame in frames:
            file.tags.add(frame)
        file.save()
    folder = prepare(config_for(audio, tmp_path / "out", "captions=tags"))
    assert {name: (row["caption"], row["genre"]) for name, row in rows_of(folder).items()} == {
        "a": (["slow dub"], "Dub"),
        "b": (["Folk"], "Folk"),
    }
    assert folder.stats["rejected"] == {"no caption": 1}


def test_review_writes_a_table_and_the_same_command_reads_it_back(tmp_path, capsys):
    audio = write_tones(tmp_path / "audio", 2)
    write_track(audio / "bare.wav", tone(300, 5.2))
    config = config_for(audio, tmp_path / "out", "captions=review")
    run(config)
    table = tmp_path / "out.captions.csv"
    assert capsys.readouterr().out == (
        f"{table}: 3 files, 1 without a caption; edit it, then run the same command again\n"
    )
    assert not (tmp_path / "out").exists()
    with table.open(encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["caption"] for row in rows] == ["", "a tone at 110 Hz", "a tone at 117 Hz"]
    table.write_text(table.read_text(encoding="utf-8-sig").replace("bare.wav,", "bare.wav,“added” by hand"))
    run(config)
    folder = prepare(config)
    assert rows_of(folder)["bare"]["caption"] == ["“added” by hand"]


def test_captions_longer_than_the_model_sees_are_counted(tmp_path, capsys):
    audio = write_tones(tmp_path / "audio", 2)
    (audio / "tone-000.txt").write_text("a very long caption " * 30)
    folder = prepare(config_for(audio, tmp_path / "out"))
    assert folder.stats["captions_cut_off"] == 1
    assert "1 captions have more than 77 tokens" in capsys.readouterr().out


def test_measured_attributes_fill_what_the_table_leaves_open(tmp_path):
    audio = write_tones(tmp_path / "audio", 2)
    (audio / "captions.csv").write_text("file,key\ntone-000.wav,B minor\n")
    arguments = ("measure=key,loudness,brightness", "caption_template={brightness} tone, in {key}")
    rows = rows_of(prepare(config_for(audio, tmp_path / "out", *arguments)))
    assert rows["tone-000"]["key"] == "B minor" and rows["tone-001"]["key"].split()[1] in ("major", "minor")
    assert rows["tone-000"]["caption"] == [f"{rows['tone-000']['brightness']} tone, in B minor"]
    assert rows["tone-001"]["loudness"] in ("quiet", "moderately loud", "loud")


WRONG = {
    "caption_template={genre}, {mood}": "no column or field 'mood'; there are bpm, genre",
    "caption_template={genre": "caption_template={genre: ",
    "balance_column=mood": "balance_column=mood: no such column; there are: bpm, genre",
    "caption_column=words": "captions.csv: no column 'words'",
}


@pytest.mark.parametrize("argument", WRONG)
def test_templates_and_columns_are_checked_before_anything_is_decoded(argument, tmp_path, monkeypatch):
    audio = write_tones(tmp_path / "audio", 2)
    (audio / "captions.csv").write_text("file,caption,genre\ntone-000.wav,a tone,dub\n")
    with monkeypatch.context() as patched, pytest.raises(InputError, match=re.escape(WRONG[argument])):
        patched.setattr(track_worker, "decode_audio", lambda path, *rest: pytest.fail("decoded"))
        prepare(config_for(audio, tmp_path / "out", "measure=bpm", argument))
    assert not (tmp_path / "out").exists()
    prepare(config_for(audio, tmp_path / "out", "caption_template={genre} music"))


def test_the_template_of_the_documentation_works_with_some_of_its_columns(tmp_path, capsys):
    audio = write_tones(tmp_path / "audio", 2)
    (audio / "captions.csv").write_text("file,genre,bpm,key\ntone-000.wav,dub,92,A minor\ntone-001.wav,folk,,\n")
    template = next(one for one in re.findall(r"'(caption_template=.*)'", DOCS.read_text()) if "{bpm" in one)
    rows = rows_of(prepare(config_for(audio, tmp_path / "out", template)))
    assert rows["tone-000"]["caption"] == ["dub music, 92 bpm, in A minor"] and rows["tone-001"]["caption"] == [
        "folk music"
    ]
    assert "caption_template: no track has style, instrument; the alternatives are used" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["file_column", "caption_column", "artist_column", "split_column"])
def test_columns_of_a_table_are_refused_where_there_is_no_table(key, tmp_path):
    audio = write_tones(tmp_path / "audio", 1)
    with pytest.raises(InputError, match=rf"{key}=x: .* holds no table of captions; name one with table="):
        prepare(config_for(audio, tmp_path / "out", f"{key}=x"))
    with pytest.raises(InputError, match=rf"{key}=x: captions=sidecar reads no table"):
        prepare(config_for(audio, tmp_path / "out", "captions=sidecar", f"{key}=x"))


def test_a_run_that_fails_at_its_end_binds_nothing_and_keeps_what_it_has_cut(tmp_path, monkeypatch):
    audio = write_tones(tmp_path / "audio", 2)
    for captions in audio.glob("*.txt"):
        captions.unlink()
    arguments = ("captions=tags", "default_caption=a tone")
    with pytest.raises(InputError, match="balance_column=mood: no such column"):  # which no file turns out to have
        prepare(config_for(audio, tmp_path / "out", *arguments, "balance_column=mood"))
    monkeypatch.setattr(track_worker, "decode_audio", lambda path, *rest: pytest.fail("decoded again"))
    folder = prepare(config_for(audio, tmp_path / "out", *arguments, "seed=3"))
    assert folder.num_slices("train") == 2
