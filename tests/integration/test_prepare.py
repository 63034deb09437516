"""`riffusion prepare` from the folder of audio to the dataset, with the real codec."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import psutil
import pytest
from PIL import Image
from support.corpus_files import chord, tone, write_tones, write_track

from data_prep.pipeline import prepare, run
from data_prep.tracks import track_worker
from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.read import read_audio, resample
from riffusion_train.cli.main import main
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.dataset import layout
from riffusion_train.runtime.errors import InputError, StoppedError

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def config_for(audio, out, *arguments):
    return compose(
        "prepare", PrepareConfig, [f"audio={audio}", f"out={out}", "spectrogram=small", "page=false", *arguments]
    )


def prepared(audio, out, *arguments):
    return prepare(config_for(audio, out, "num_workers=0", *arguments))


def start(audio, out, *arguments):
    command = [sys.executable, "-m", "riffusion_train", "prepare", f"audio={audio}", f"out={out}", "spectrogram=small"]
    return subprocess.Popen([*command, *arguments], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def wait_for_tracks(out, count, process):
    for _ in range(18000):
        if len(list(Path(out, ".work", "tracks").glob("*.arrow"))) >= count:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    raise AssertionError("no tracks were stored within 180 s")


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards_of(folder):
    return {name: content for name, content in files_of(folder).items() if name.startswith("data/")}


def manifest_of(folder):
    with (folder / layout.MANIFEST_FILE).open() as lines:
        return {entry["source"]: entry for entry in map(json.loads, lines)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Good and bad files in several formats."""
    folder = write_tones(tmp_path_factory.mktemp("corpus"), 3)
    for index, suffix in enumerate((".flac", ".ogg", ".opus", ".mp3", ".aiff", ".m4a")):
        wav = chord(200 + 20 * index, 5.5, 48000)
        write_track(folder / f"formats/{suffix[1:]}{suffix}", wav, f"a chord as {suffix}", "a triad", rate_hz=48000)
    write_track(folder / "long.wav", chord(330, 14.0), "a long chord")
    write_track(folder / "no-caption.wav", tone(100, 6))
    write_track(folder / "short.wav", tone(100, 0.3), "short")
    write_track(folder / "silent.wav", 0 * tone(100, 6), "nothing to hear")
    (folder / "broken.mp3").write_bytes(b"this is no sound" * 100)
    (folder / "broken.txt").write_text("broken")
    return folder


@pytest.fixture(scope="module")
def dataset(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("dataset") / "out"
    return prepared(corpus, out, "validation_ratio=0.2", "captions=sidecar")


def test_datasets_opens_the_folder_with_images_and_captions(dataset, tmp_path):
    opened = datasets.load_dataset(str(dataset.path), cache_dir=str(tmp_path))
    assert set(opened) == {"train", "validation"}
    rows = [row for split in opened.values() for row in split]
    assert len(rows) == 11 == dataset.num_slices("train") + dataset.num_slices("validation")
    assert all(isinstance(row["image"], Image.Image) and row["image"].size == (128, 128) for row in rows)
    captions = {row["track_id"]: row["caption"] for row in rows}
    assert captions["formats/opus"] == ["a chord as .opus", "a triad"]
    assert captions["tone-000"] == ["a tone at 110 Hz"]
    assert opened["train"].features == layout.features()


def test_a_dataset_made_again_is_not_mistaken_for_the_old_one(tmp_path):
    captions = []
    for round_number in (1, 2):
        audio = write_tones(tmp_path / f"audio-{round_number}", round_number)
        folder = prepared(audio, tmp_path / "dataset", "overwrite=true", "validation_ratio=0")
        captions.append(len(datasets.load_dataset(str(folder.path), cache_dir=str(tmp_path / "cache"))["train"]))
    assert captions == [1, 2]


def test_plain_parquet_gives_images_too(dataset, tmp_path):
    files = [str(path) for path in dataset.shards("train")]
    opened = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert isinstance(opened[0]["image"], Image.Image) and isinstance(opened[0]["caption"], list)


def test_each_image_is_the_codecs_image_of_its_window(dataset, corpus):
    codec = make_codec(dataset.spectrogram)
    gains_db = {source: entry["gain_db"] for source, entry in manifest_of(dataset.path).items()}
    rows = datasets.Dataset.from_parquet([str(path) for path in dataset.shards("train")], keep_in_memory=True)
    rows = [row for row in rows if row["source"] in ("long.wav", "formats/flac.flac", "formats/m4a.m4a")]
    assert rows
    for row in rows:
        wav, rate_hz = read_audio(corpus / row["source"])
        wav = wav.mean(axis=0, keepdims=True)  # the codec's images are mono
        wav = resample(wav, rate_hz, codec.rate_hz) * np.float32(10 ** (gains_db[row["source"]] / 20))
        begin = round(row["start_s"] * codec.rate_hz)
        window = wav[:, begin : begin + codec.clip_samples]
        encoded = codec.encode(np.pad(window, ((0, 0), (0, codec.clip_samples - window.shape[1]))))
        np.testing.assert_array_equal(np.asarray(row["image"]), encoded.image)
        assert row["max_value"] == pytest.approx(encoded.max_value)


def test_a_long_file_is_cut_at_multiples_of_the_clip(dataset, corpus, tmp_path):
    def starts(folder):
        rows = [row for split in layout.SPLITS for shard in folder.shards(split) for row in _rows(shard)]
        return [(row["start_s"], row["duration_s"]) for row in rows if row["source"] == "long.wav"]

    clip_s = dataset.spectrogram.clip_s
    assert starts(dataset) == [(0.0, clip_s), (clip_s, clip_s)]  # the last 3.84 s are below 0.9 clips
    overlapping = prepared(_folder_with(corpus, tmp_path, "long"), tmp_path / "out", "stride_s=2.5", "min_clip_s=2")
    assert [start for start, _ in starts(overlapping)] == [0, 2.5, 5, 7.5, 10]
    assert starts(overlapping)[-1][1] == pytest.approx(4.0, abs=1e-3)


def test_what_cannot_be_used_is_listed_with_its_reason_and_the_rest_is_kept(dataset):
    rejected = {source: entry for source, entry in manifest_of(dataset.path).items() if entry["status"] == "rejected"}
    reasons = {source: entry["reason"] for source, entry in rejected.items()}
    assert reasons == {
        "broken.mp3": "unreadable",
        "no-caption.wav": "no caption",
        "short.wav": "too short",
        "silent.wav": "silent",
    }
    assert all(entry["detail"] for entry in rejected.values())
    assert dataset.stats["rejected"] == {"no caption": 1, "silent": 1, "too short": 1, "unreadable": 1}
    assert "| no caption | 1 |" in (dataset.path / "README.md").read_text()
    with Image.open(dataset.path / "pictures" / "contact_sheet.png") as sheet:
        assert sheet.width > 800


def test_tracks_reach_the_target_loudness_and_keep_their_own_in_the_table(dataset):
    entry = manifest_of(dataset.path)["long.wav"]
    assert entry["lufs"] + entry["gain_db"] == pytest.approx(-14, abs=0.01)


def test_two_processes_and_none_give_the_same_bytes(dataset, corpus, tmp_path):
    prepare(config_for(corpus, tmp_path / "two", "num_workers=2", "validation_ratio=0.2", "captions=sidecar"))
    assert files_of(tmp_path / "two") == files_of(dataset.path)


def test_a_killed_run_resumes_and_ends_in_the_same_dataset(tmp_path):
    audio = write_tones(tmp_path / "audio", 30)
    expected = prepared(audio, tmp_path / "whole")
    process = start(audio, tmp_path / "out", "num_workers=2")
    wait_for_tracks(tmp_path / "out", 5, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    _, alive = psutil.wait_procs(workers, timeout=60)  # they finish their file and leave
    assert not alive
    with pytest.raises(InputError, match="unfinished"):
        layout.open_dataset_folder(tmp_path / "out")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / ".work" / "tracks").glob("*.arrow")}
    assert 5 <= len(kept) < 30
    seen = _watch_stored(kept, lambda: prepared(audio, tmp_path / "out"))
    assert seen == kept  # no stored track was made again
    assert shards_of(tmp_path / "out") == shards_of(expected.path)
    assert not (tmp_path / "out" / ".work").exists()


def test_sigterm_keeps_what_is_done_and_says_how_to_continue(tmp_path):
    audio = write_tones(tmp_path / "audio", 60)
    process = start(audio, tmp_path / "out", "num_workers=1")
    wait_for_tracks(tmp_path / "out", 2, process)
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 3
    assert messages.strip().splitlines()[-1].endswith("of 60 tracks are finished; the same command continues")


def test_ctrl_c_in_this_process_raises_stopped(tmp_path, monkeypatch):
    audio = write_tones(tmp_path / "audio", 6)
    monkeypatch.setattr(
        "riffusion_train.runtime.progress.ProgressReport.update", lambda *_: os.kill(os.getpid(), signal.SIGINT)
    )
    with pytest.raises(StoppedError, match="1 of 6 tracks are finished"):
        prepared(audio, tmp_path / "out")
    monkeypatch.undo()
    assert prepared(audio, tmp_path / "out").stats["totals"]["tracks"] == 6


def test_the_same_command_over_a_finished_dataset_does_nothing(dataset, corpus, capsys):
    before = files_of(dataset.path)
    stamps = {path: path.stat().st_mtime_ns for path in dataset.path.rglob("*")}
    prepared(corpus, dataset.path, "validation_ratio=0.2", "captions=sidecar")
    assert "is complete" in capsys.readouterr().out
    assert files_of(dataset.path) == before
    assert {path: path.stat().st_mtime_ns for path in dataset.path.rglob("*")} == stamps


def test_other_settings_over_a_dataset_are_refused_by_key_unless_it_may_be_replaced(tmp_path):
    audio = write_tones(tmp_path / "audio", 2)
    first = prepared(audio, tmp_path / "out")
    with pytest.raises(InputError, match=r"made with stride_s=null \(now 2.0\).*overwrite=true"):
        prepared(audio, tmp_path / "out", "stride_s=2")
    assert shards_of(first.path) == shards_of(prepared(audio, tmp_path / "again").path)
    second = prepared(audio, tmp_path / "out", "stride_s=2", "min_clip_s=1", "overwrite=true")
    assert second.stats["totals"]["slices"] == 4
    assert second.fingerprint != first.fingerprint


def test_files_that_come_later_extend_the_dataset_and_the_others_are_not_decoded_again(tmp_path, capsys, monkeypatch):
    audio = write_tones(tmp_path / "audio", 4)
    out = prepared(audio, tmp_path / "out").path
    write_tones(audio, 6)
    decoded = []
    decode = track_worker.decode_audio
    monkeypatch.setattr(
        track_worker, "decode_audio", lambda path, *rest: decoded.append(path.name) or decode(path, *rest)
    )
    extended = prepared(audio, out)
    assert decoded == ["tone-004.wav", "tone-005.wav"]
    assert "is extended: the slices of 4 tracks are taken as they are" in capsys.readouterr().out
    fresh = prepared(audio, tmp_path / "fresh")
    assert shards_of(out) == shards_of(fresh.path) and extended.fingerprint == fresh.fingerprint
    assert manifest_of(out) == manifest_of(fresh.path)


def test_a_dry_run_reports_what_would_be_made_and_makes_nothing(tmp_path, capsys):
    audio = write_tones(tmp_path / "audio", 3, 11.0)
    write_track(audio / "bare.wav", tone(100, 6))
    config = config_for(audio, tmp_path / "out", "num_workers=0", "dry_run=true", "captions=sidecar")
    run(config)
    report = capsys.readouterr().out
    assert "about 6 slices of 3 tracks, 0.01 h" in report and "rejected: bare.wav: no caption" in report
    assert not (tmp_path / "out").exists()
    assert prepared(audio, tmp_path / "out", "captions=sidecar").stats["totals"]["slices"] == 6


def test_a_foreign_folder_is_never_written_into(tmp_path):
    audio = write_tones(tmp_path / "audio", 1)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    for arguments in ((), ("overwrite=true",)):
        with pytest.raises(InputError, match=r"chapter\.tex is in it"):
            prepared(audio, tmp_path / "thesis", *arguments)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_table_gives_its_columns_splits_and_artists_to_the_dataset(tmp_path):
    audio = write_tones(tmp_path / "audio", 4)
    rows = ["0,one,90,train,Ann", "1,two,,validation,Bob", "2,three,120,,Ann", "3,four,60,,Bob"]
    lines = [f"tone-{row[:1].zfill(3)}.wav{row[1:]}" for row in rows]
    (audio / "captions.csv").write_text("\n".join(["file,caption,bpm,split,artist", *lines]))
    folder = prepared(audio, tmp_path / "out")
    opened = datasets.load_dataset(str(folder.path), cache_dir=str(tmp_path / "cache"))
    rows = {row["track_id"]: (split, row["caption"], row["bpm"]) for split in opened for row in opened[split]}
    assert rows == {
        "tone-000": ("train", ["one"], 90),
        "tone-001": ("validation", ["two"], None),
        "tone-002": ("train", ["three"], 120),
        "tone-003": ("validation", ["four"], 60),
    }
    assert opened["train"].features == layout.features({"bpm": "int64", "artist": "string"})


def test_wrong_input_is_one_line_and_exit_code_two(tmp_path, capsys):
    empty, silent = tmp_path / "empty", tmp_path / "silent"
    empty.mkdir()
    write_track(silent / "a.wav", 0 * tone(100, 6), "silence")
    for audio, message in (
        (tmp_path / "nowhere", "no such folder"),
        (empty, "no audio files"),
        (silent, "cannot use the one track; the first, a.wav: silent"),
    ):
        assert main(["prepare", f"audio={audio}", f"out={tmp_path / 'out'}", "spectrogram=small", "num_workers=0"]) == 2
        *progress, error = capsys.readouterr().err.strip().splitlines()
        assert message in error
        assert all(line.startswith("prepare tracks: ") for line in progress)
    assert not (tmp_path / "out" / ".work").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("stride_s=0", "stride_s=0.0"),
        ("min_clip_s=6", "min_clip_s=6.0: give a number of seconds above 0, up to the clip's 5.08 s"),
        ("validation_ratio=1", "validation_ratio=1.0"),
        ("peak_ceiling_dbfs=3", "clips"),
        ("target_lufs=14", "target_lufs=14.0"),
        ("num_workers=-1", "num_workers=-1"),
        ("shard_size_mb=0", "shard_size_mb=0"),
        ("strides=3", "unknown key 'strides'; did you mean 'stride_s'"),
        ("table=gone.csv", "table=gone.csv: no such file"),
    ],
)
def test_an_impossible_setting_is_refused_by_its_key(tmp_path, word, message):
    with pytest.raises(InputError) as caught:
        prepared(write_tones(tmp_path / "audio", 1), tmp_path / "out", word)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_ends_the_run_and_it_resumes_when_there_is_space(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=150k", "tmpfs", str(disk)]
    if subprocess.run(["mount", *options], capture_output=True).returncode != 0:
        pytest.skip("a small file system can be mounted by root only")
    try:
        audio = write_tones(tmp_path / "audio", 30)
        with pytest.raises(OSError) as caught:
            prepared(audio, disk / "out")
        assert caught.value.errno == errno.ENOSPC and str(disk) in caught.value.filename
        kept = len(list((disk / "out" / ".work" / "tracks").iterdir()))
        assert 0 < kept < 30
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert prepared(audio, disk / "out").stats["totals"]["tracks"] == 30
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _rows(shard):
    return datasets.Dataset.from_parquet(str(shard), keep_in_memory=True).to_list()


def _folder_with(corpus, tmp_path, stem):
    folder = tmp_path / "chosen"
    folder.mkdir()
    for path in corpus.glob(f"{stem}.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def _watch_stored(kept, run):
    """Run, and return the times of the stored files just before the working folder was deleted."""
    from data_prep.output.folder import OutputFolder

    seen = {}
    clear = OutputFolder.clear

    def look_and_clear(output):
        seen.update({path: path.stat().st_mtime_ns for path in kept})
        clear(output)

    OutputFolder.clear = look_and_clear
    try:
        run()
    finally:
        OutputFolder.clear = clear
    return seen


def test_a_folder_that_is_removed_while_it_is_written_is_one_line_and_exit_code_two(tmp_path, capsys, monkeypatch):
    audio, out = write_tones(tmp_path / "audio", 2), tmp_path / "out"
    decode = track_worker.decode_audio

    def remove_and_decode(path, *rest):
        shutil.rmtree(out)
        return decode(path, *rest)

    command = ["prepare", f"audio={audio}", f"out={out}", "spectrogram=small", "num_workers=0"]
    for name, step in (("tracks.track_worker.decode_audio", remove_and_decode), ("output.finish.assemble", None)):
        with monkeypatch.context() as patched:
            patched.setattr(
                f"data_prep.{name}", step or (lambda *_: shutil.rmtree(out) or (out / ".work" / "x").read_bytes())
            )
            assert main(command) == 2
        assert f"out={out}: the folder, or something in it, was removed while" in capsys.readouterr().err
    assert main(command) == 0


def test_a_url_where_only_a_file_works_is_refused_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "audio=/nowhere", "out=x", "captions=review", "table=s3://bucket/name"]) == 2
    assert "table=s3://bucket/name: is a URL" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_refused_by_merge_as_well(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments in (["out=s3://bucket/name"], ["out=name", "s3://bucket/part"]):
        assert main(["prepare", "merge", *arguments]) == 2
        assert ": is a URL" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
