"""The dataset page on disk: what it holds, its size, when it is written again, and captions that come back from it."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import datasets
import pytest
from support.corpus_files import chord, noise, tone, write_track

from data_prep.output.page import PageOptions, write_page
from data_prep.pipeline import prepare
from data_prep.tracks import track_worker
from riffusion_train.audio.read import read_audio
from riffusion_train.cli.main import main
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.dataset.layout import open_dataset_folder

FIXTURE = Path(__file__).parents[1] / "fixtures" / "v0_1_0" / "dataset"


def config_for(audio, out, *arguments):
    common = ["spectrogram=small", "num_workers=0", "validation_ratio=0.3"]
    return compose("prepare", PrepareConfig, [f"audio={audio}", f"out={out}", *common, *arguments])


def prepared(audio, out, *arguments):
    return prepare(config_for(audio, out, *arguments))


def data_of(folder):
    text = (Path(folder) / "index.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="site">(.*?)</script>', text, re.DOTALL)[1])


def page_files(folder):
    paths = [folder / "index.html", *(folder / "page").iterdir()]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    write_track(folder / "chord.wav", chord(220, 16.0), "a chord", "a triad")
    write_track(folder / "copy.wav", chord(220, 16.0), "the same chord")
    write_track(folder / "tone.flac", tone(330, 11.0), 'a <b>tone</b>, "loud"')
    write_track(folder / "hiss.wav", noise(1, 6.0), "hiss")
    (folder / "broken.mp3").write_bytes(b"no sound" * 100)
    (folder / "broken.txt").write_text("broken")
    return folder


@pytest.fixture(scope="module")
def dataset(audio, tmp_path_factory):
    return prepared(audio, tmp_path_factory.mktemp("made") / "out", "page_audio=true")


def test_the_page_lists_tracks_copies_rejects_and_slices_with_their_files(dataset):
    data = data_of(dataset.path)
    assert {track["source"] for track in data["tracks"]} == {"chord.wav", "copy.wav", "tone.flac", "hiss.wav"}
    assert [reject["source"] for reject in data["rejects"]] == ["broken.mp3"]
    (group,) = data["copies"]
    assert {data["tracks"][index]["source"] for index in group} == {"chord.wav", "copy.wav"}
    assert len(data["slices"]) == dataset.stats["totals"]["slices"]
    for item in data["slices"]:
        for kind in ("sound", "audio"):
            wav, rate_hz = read_audio(dataset.path / "page" / item[kind])
            assert abs(wav.shape[1] / rate_hz - item["duration_s"]) < 0.15
            assert abs(wav).max() > 0.01
        assert (dataset.path / "page" / item["image"]).stat().st_size > 100


def test_datasets_opens_a_folder_with_a_page(dataset, tmp_path):
    opened = datasets.load_dataset(str(dataset.path), cache_dir=str(tmp_path))
    assert sum(split.num_rows for split in opened.values()) == dataset.stats["totals"]["slices"]


def test_the_same_dataset_gives_the_same_page_and_nothing_is_done_twice(audio, dataset, tmp_path):
    out = tmp_path / "out"
    folder = prepared(audio, out, "page_audio=true")
    assert page_files(folder.path) == page_files(dataset.path)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    prepared(audio, out, "page_audio=true")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == stamps
    (out / "index.html").unlink()  # as if it had been interrupted
    prepared(audio, out, "page_audio=true")
    assert page_files(folder.path) == page_files(dataset.path)
    prepared(audio, out, "page=false")
    assert not (out / "index.html").exists() and not (out / "page").exists()


def test_a_small_budget_shows_fewer_slices(dataset, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(dataset.path, copy)
    html_mb = (copy / "index.html").stat().st_size / 1e6
    limit_mb = round(html_mb + 0.03, 3)
    write_page(open_dataset_folder(copy), PageOptions(megabytes=limit_mb))
    size = sum(len(content) for name, content in page_files(copy).items() if name != "made.json")
    assert size <= limit_mb * 1e6
    assert 0 < len(data_of(copy)["slices"]) < dataset.stats["totals"]["slices"]
    assert "page_mb=" in capsys.readouterr().out


@pytest.mark.parametrize("writer", ["folder", "webdataset"])
def test_every_writer_gets_a_page(audio, dataset, tmp_path, writer):
    folder = prepared(audio, tmp_path / "out", f"writer={writer}", "page_slices=3")
    assert len(data_of(folder.path)["slices"]) == 3
    assert {item["image"] for item in data_of(folder.path)["slices"]} <= {
        p.name for p in (dataset.path / "page").iterdir()
    }


def test_a_dataset_of_version_0_1_0_gets_a_page(tmp_path):
    copy = tmp_path / "old"
    shutil.copytree(FIXTURE, copy)
    assert main(["prepare", "page", f"out={copy}"]) == 0
    data = data_of(copy)
    assert len(data["slices"]) == 6 and data["tracks"][0]["captions"]
    assert datasets.load_dataset(str(copy), cache_dir=str(tmp_path / "cache"))["train"].num_rows == 5


def test_a_dataset_without_its_manifest_is_refused_in_one_line(tmp_path, capsys):
    shutil.copytree(FIXTURE, tmp_path / "out")
    (tmp_path / "out" / "manifest.jsonl").unlink()
    assert main(["prepare", "page", f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert "has no manifest.jsonl" in error and error.count("\n") == 1


def test_edited_captions_come_back_and_nothing_is_decoded_again(audio, dataset, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(dataset.path, out)
    sounds = {path.name: path.stat().st_mtime_ns for path in (out / "page").glob("*.mp3")}
    data = data_of(out)
    sink = io.StringIO()
    table = csv.writer(sink)
    table.writerow(["file", "caption", "split"])
    for track in data["tracks"]:
        captions = ["a new, better caption"] if track["source"] == "hiss.wav" else track["captions"]
        table.writerows([track["source"], caption, track["split"]] for caption in captions)
    (tmp_path / "captions.csv").write_text("\ufeff" + sink.getvalue(), encoding="utf-8")

    def refuse(path, *rest):
        raise AssertionError(f"{path} is decoded again")

    monkeypatch.setattr(track_worker, "decode_audio", refuse)
    folder = prepared(audio, out, "page_audio=true", f"table={tmp_path / 'captions.csv'}")
    tracks = {track["source"]: track for track in data_of(out)["tracks"]}
    before = {track["source"]: track for track in data["tracks"]}
    assert tracks["hiss.wav"]["captions"] == ["a new, better caption"]
    assert tracks["tone.flac"]["captions"] == before["tone.flac"]["captions"]
    assert {name: track["split"] for name, track in tracks.items()} == {n: t["split"] for n, t in before.items()}
    assert folder.stats["totals"] == dataset.stats["totals"]
    assert {path.name: path.stat().st_mtime_ns for path in (out / "page").glob("*.mp3")} == sounds


def test_bad_sizes_and_folders_are_refused_in_one_line(tmp_path, capsys):
    assert main(["prepare", "page"]) == 2
    assert main(["prepare", "page", f"out={tmp_path}"]) == 2
    assert main(["prepare", "page", f"out={tmp_path}", "page_mb=0"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and "page_mb=0" in lines[2]
