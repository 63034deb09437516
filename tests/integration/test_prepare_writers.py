"""The folder and WebDataset writers, read by what other trainers read them with, and uploads to a stand-in hub."""

import io
import json
import shutil
import subprocess
import tarfile
from errno import ENOSPC
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from PIL import Image
from support.corpus_files import chord, tone, write_tones, write_track
from support.hub import StandInHub, serving
from support.nano import train_config

from data_prep.output.folder import command_line
from data_prep.pipeline import prepare, run
from data_prep.tracks import track_worker
from data_prep.writers.formats import TarWriter, read_tar
from riffusion_train.cli.main import main
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.dataset import layout
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.run import run_training

WRITERS = ("parquet", "folder", "webdataset")


def config_for(audio, out, *arguments):
    base = [f"audio={audio}", f"out={out}", "spectrogram=tiny", "num_workers=0", "validation_ratio=0.3", "page=false"]
    return compose("prepare", PrepareConfig, [*base, *arguments])


def prepared(audio, out, *arguments):
    return prepare(config_for(audio, out, *arguments))


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = write_tones(tmp_path_factory.mktemp("audio"), 4)
    write_track(folder / "album é" / "Long One.flac", chord(330, 11.0), "a long chord", "a triad")
    write_track(folder / "quiet.wav", 0 * tone(100, 6), "silence")
    return folder


@pytest.fixture(scope="module")
def written(audio, tmp_path_factory):
    out = tmp_path_factory.mktemp("written")
    return {writer: prepared(audio, out / writer, f"writer={writer}") for writer in WRITERS}


@pytest.fixture(scope="module")
def expected(written):
    """Split, captions and image of each slice, by track and start, read plainly from the Parquet shards."""
    folder = written["parquet"]
    rows = [(split, row) for split in folder.stats["splits"] for row in rows_of(folder, split)]
    assert len(rows) == 6
    return {
        (row["track_id"], row["start_s"]): (split, row["caption"], row["image"]["bytes"], row["loudness_lufs"])
        for split, row in rows
    }


def rows_of(folder, split):
    return [row for shard in folder.shards(split) for row in pq.read_table(shard).to_pylist()]


def png_pixels(content):
    return Image.open(io.BytesIO(content)).tobytes()


def test_imagefolder_opens_the_folder_with_text_and_all_captions(written, expected, tmp_path):
    path = written["folder"].path
    opened = datasets.load_dataset("imagefolder", data_dir=str(path / "data"), cache_dir=str(tmp_path / "cache"))
    assert set(opened) == {"train", "validation"}
    seen = {}
    for split, rows in opened.items():
        for row in rows:
            assert row["text"] == row["caption"][0]
            key = row["track_id"], row["start_s"]
            _, _, png, _ = expected[key]
            assert row["image"].tobytes() == png_pixels(png)
            seen[key] = split, row["caption"], png, row["loudness_lufs"]
    assert seen == expected


def test_a_folder_opened_as_by_diffusers_trainer_gives_images_and_text(written, tmp_path):
    folder = written["folder"].path / "data" / "train"
    files = {"train": str(folder / "**")}  # as train_text_to_image.py does with --train_data_dir
    opened = datasets.load_dataset("imagefolder", data_files=files, cache_dir=str(tmp_path / "cache"))["train"]
    assert opened.column_names[0] == "image" and {"text", "caption"} <= set(opened.column_names)
    assert len(opened) == written["folder"].num_slices("train")


def test_the_card_shows_licence_fingerprint_captions_and_histograms(tmp_path, monkeypatch):
    audio = write_tones(tmp_path / "audio", 3)
    rows = [f"tone-{index:03d}.wav,a tone,{bpm}" for index, bpm in enumerate((92, 97.5, 140))]
    (audio / "captions.csv").write_text("\n".join(["file,caption,bpm", *rows]))
    folder = prepared(audio, tmp_path / "out")
    assert DatasetCard.load(folder.path / "README.md").data.license == "unknown"
    assert folder.stats["histograms"]["tempo_bpm"] == {"start": 90.0, "step": 10.0, "counts": [2, 0, 0, 0, 0, 1]}
    monkeypatch.setattr(track_worker, "decode_audio", lambda path, *rest: pytest.fail("decoded again"))
    folder = prepared(audio, tmp_path / "out", "license=cc-by-4.0")  # which changes the card alone
    card = (folder.path / "README.md").read_text()
    assert DatasetCard(card).data.license == "cc-by-4.0" and "| licence of the audio | cc-by-4.0 |" in card
    assert f"`{folder.fingerprint}`" in card and "| captions | 1 different ones, 1 a track" in card
    for name in ("contact_sheet", "loudness_lufs", "tempo_bpm"):
        assert f"(pictures/{name}.png)" in card and (folder.path / "pictures" / f"{name}.png").is_file()
    assert "language" not in DatasetCard(card).data.to_dict(), "a language that is not known is not claimed"
    folder = prepared(audio, tmp_path / "out", "license=cc-by-4.0", "language=en")
    assert DatasetCard.load(folder.path / "README.md").data.language == ["en"]
    with pytest.raises(InputError, match=r"language=English: write its code as the Hub does"):
        prepared(audio, tmp_path / "out", "language=English")
    with pytest.raises(InputError, match=r"license=CC BY 4\.0: write it as the Hub does"):
        prepared(audio, tmp_path / "out", "license=CC BY 4.0")


def test_the_command_in_the_card_is_the_same_for_any_number_of_workers_and_any_folder():
    arguments = ["audio=my songs", "num_workers=4", "out=/data/set", "seed=3", "part=2/3", "push_to_hub=me/mine"]
    assert command_line(arguments, Path("/data/set")) == "riffusion prepare 'audio=my songs' seed=3 out=set"


@pytest.mark.parametrize("writer", WRITERS)
def test_load_dataset_opens_each_layout_by_its_card(writer, written, tmp_path):
    opened = datasets.load_dataset(str(written[writer].path), cache_dir=str(tmp_path / "cache"))
    counts = {split: len(rows) for split, rows in opened.items()}
    assert counts == {split: written[writer].num_slices(split) for split in ("train", "validation")}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_the_card_says_about_columns_and_rows_is_what_is_there(writer, written, tmp_path):
    folder = written[writer]
    info = datasets.info.DatasetInfosDict.from_dataset_card_data(DatasetCard.load(folder.path / "README.md").data)[
        "default"
    ]
    assert {name: split.num_examples for name, split in info.splits.items()} == {
        split: folder.num_slices(split) for split in ("train", "validation")
    }
    assert info.features == (layout.features() if writer == "parquet" else None)
    damaged = tmp_path / "damaged"
    shutil.copytree(folder.path, damaged)
    card = (damaged / "README.md").read_text().replace("num_examples: ", "num_examples: 1")
    (damaged / "README.md").write_text(card)
    with pytest.raises(datasets.exceptions.NonMatchingSplitsSizesError):
        datasets.load_dataset(str(damaged), cache_dir=str(tmp_path / "cache"))


def test_each_image_of_the_folder_writer_has_its_first_caption_beside_it(written, expected):
    folder = written["folder"]
    for split in ("train", "validation"):
        images = sorted((folder.path / "data" / split).glob("*.png"))
        lines = map(json.loads, (folder.path / "data" / split / "metadata.jsonl").read_text().splitlines())
        captions = {line["file_name"]: line["text"] for line in lines}
        assert len(images) == folder.num_slices(split) == len(captions)
        assert all(image.with_suffix(".txt").read_text() == captions[image.name] for image in images)
        assert len(list((folder.path / "data" / split).iterdir())) == 2 * len(images) + 1


@pytest.mark.parametrize("writer", WRITERS)
def test_a_flipped_byte_is_found_and_named_by_prepare_check(writer, written, expected, tmp_path, capsys):
    folder = tmp_path / "dataset"
    shutil.copytree(written[writer].path, folder)
    assert main(["prepare", "check", str(folder)]) == 0
    assert f"{folder}: all 2 shards with 6 slices are as they were written" in capsys.readouterr().out
    (track, start_s), (split, _, png, _) = next(iter(expected.items()))
    source = next(row["source"] for row in rows_of(written["parquet"], split) if row["track_id"] == track)
    paths = (path for path in sorted((folder / "data").rglob("*")) if path.is_file())
    damaged = next(path for path in paths if png[len(png) // 2 :][:8] in path.read_bytes())
    part = png[len(png) // 2 :][:8]  # short, since Parquet compresses; it may hold an image again as a statistic
    damaged.write_bytes(damaged.read_bytes().replace(part, bytes([part[0] ^ 0xFF]) + part[1:]))
    assert main(["prepare", "check", f"out={folder}"]) == 2
    shown = capsys.readouterr()
    assert f", {source} at {start_s:.2f} s: the image is damaged: " in shown.out
    assert f"{folder}: 1 of 2 shards are damaged; make the dataset anew" in shown.err


@pytest.mark.parametrize("writer", WRITERS)
def test_a_damaged_shard_is_cut_again_when_its_dataset_is_extended(writer, tmp_path, capsys):
    audio = write_tones(tmp_path / "audio", 2)
    folder = prepared(audio, tmp_path / "out", f"writer={writer}", "validation_ratio=0")
    shard = next(folder.path.glob("data/**/*.png" if writer == "folder" else "data/*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    write_tones(audio, 3)
    prepared(audio, tmp_path / "out", f"writer={writer}", "validation_ratio=0")
    assert "is damaged; its tracks are cut again" in capsys.readouterr().out
    prepared(audio, tmp_path / "fresh", f"writer={writer}", "validation_ratio=0")
    assert files_of(tmp_path / "out" / "data") == files_of(tmp_path / "fresh" / "data")


def test_prepare_check_names_what_is_missing_or_another(written, tmp_path, capsys):
    folder = tmp_path / "dataset"
    shutil.copytree(written["folder"].path, folder)
    images = sorted((folder / "data" / "train").glob("*.png"))
    images[0].unlink()
    images[1].with_suffix(".txt").write_text("another caption")
    (folder / "data" / "validation" / "metadata.jsonl").unlink()
    assert main(["prepare", "check", str(folder)]) == 2
    shown = capsys.readouterr().out
    assert f"{images[0]} is missing" in shown and "validation/metadata.jsonl is missing" in shown
    images[0].write_bytes(images[1].read_bytes())
    assert main(["prepare", "check", str(folder)]) == 2
    shown = capsys.readouterr().out
    assert "other content than was written, though every image can be decoded" in shown
    assert f"{images[1].stem}.txt is missing or holds another caption" in shown
    for arguments, message in (
        ([], "name one dataset folder"),
        (["s3://a/b"], "is a URL"),
        ([str(tmp_path)], "not a dataset"),
    ):
        assert main(["prepare", "check", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["prepare", "check", "--help"]) == 0 and "usage: riffusion prepare check" in capsys.readouterr().out


def test_webdataset_gives_image_text_and_columns(written, expected, tmp_path):
    files = {split: [str(path) for path in written["webdataset"].shards(split)] for split in ("train", "validation")}
    opened = datasets.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path / "cache"))
    seen = {}
    for split, rows in opened.items():
        for row in rows:
            columns = row["json"]
            key = columns["track_id"], columns["start_s"]
            assert row["txt"] == columns["caption"][0]
            assert row["png"].tobytes() == png_pixels(expected[key][2])
            seen[key] = split, columns["caption"], expected[key][2], columns["loudness_lufs"]
    assert seen == expected


def test_every_tar_member_is_named_for_its_track_and_owned_by_nobody(written):
    for shard in written["webdataset"].shards("train"):
        with tarfile.open(shard) as archive:
            members = archive.getmembers()
        assert all((member.mtime, member.uid, member.uname) == (0, 0, "") for member in members)
        assert [Path(member.name).suffix for member in members[:3]] == [".png", ".txt", ".json"]


def test_tar_shards_end_at_their_size(tmp_path):
    rows = [
        {"image": {"bytes": bytes([index]) * 2**18}, "caption": ["x"], "track_id": "a", "start_s": float(index)}
        for index in range(11)
    ]
    shards = TarWriter(tmp_path, "train", 2**20).write(iter(rows))
    assert [shard.slices for shard in shards] == [4, 4, 3]
    assert [row["start_s"] for shard in shards for row in read_tar(tmp_path / shard.name)] == list(range(11))


@pytest.mark.parametrize("writer", ["folder", "webdataset"])
def test_two_processes_give_the_same_bytes(writer, audio, written, tmp_path):
    prepared(audio, tmp_path / "two", f"writer={writer}", "num_workers=2")
    assert files_of(tmp_path / "two") == files_of(written[writer].path)


@pytest.mark.parametrize("writer", ["folder", "webdataset"])
def test_new_files_extend_each_layout_and_nothing_is_decoded_twice(writer, tmp_path, monkeypatch):
    audio = write_tones(tmp_path / "audio", 3)
    out = prepared(audio, tmp_path / "out", f"writer={writer}").path
    write_tones(audio, 4)
    decoded = []
    decode = track_worker.decode_audio
    monkeypatch.setattr(
        track_worker, "decode_audio", lambda path, *rest: decoded.append(path.name) or decode(path, *rest)
    )
    prepared(audio, out, f"writer={writer}")
    assert decoded == ["tone-003.wav"]
    prepared(audio, tmp_path / "fresh", f"writer={writer}")
    assert files_of(out) == files_of(tmp_path / "fresh")


def test_train_refuses_the_layouts_for_others_before_it_loads_a_model(written, tmp_path):
    for writer in ("folder", "webdataset"):
        config = train_config(written[writer].path, tmp_path / "run")
        with pytest.raises(
            InputError, match=rf"writer={writer}\).*make another with: riffusion prepare … writer=parquet"
        ):
            run_training(config, [])
    assert not (tmp_path / "run").exists()


def test_a_column_that_the_folder_writer_writes_itself_is_refused(tmp_path):
    audio = write_tones(tmp_path / "audio", 1)
    (audio / "captions.csv").write_text("file,caption,text\ntone-000.wav,one,two\n")
    with pytest.raises(InputError, match="writer=folder writes a column 'text' itself"):
        prepared(audio, tmp_path / "out", "writer=folder")
    assert prepared(audio, tmp_path / "out", "writer=webdataset", "validation_ratio=0").num_slices("train") == 1


@pytest.mark.parametrize("writer", ["folder", "webdataset"])
def test_a_disk_that_fills_up_while_images_are_written_leaves_no_dataset_and_the_run_resumes(writer, tmp_path):
    audio = write_tones(tmp_path / "audio", 3, 11.0)
    arguments = (f"writer={writer}", "spectrogram=small", "shard_size_mb=1", "stride_s=0.5")
    images = files_of(prepared(audio, tmp_path / "elsewhere", *arguments).path / "data")
    space = round(1.5 * sum(map(len, images.values())))  # for the track store and half of the dataset
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={space}", "tmpfs", str(disk)]
    if subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        with pytest.raises(OSError) as caught:
            prepared(audio, disk / "out", *arguments)
        assert caught.value.errno == ENOSPC and caught.value.filename.startswith(str(disk))
        assert len(list((disk / "out" / ".work" / "tracks").glob("*.arrow"))) == 3, "it was to fill while writing"
        assert not (disk / "out" / "stats.json").exists()
        subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
        assert files_of(prepared(audio, disk / "out", *arguments).path / "data") == images
    finally:
        subprocess.run(
            ["umount", "--lazy", str(disk)], check=True
        )  # the error's frames still hold a file of the store open


@pytest.fixture
def token(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_one")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)


def visible(folder):
    """Return what is uploaded: all but hidden files, and the page, which is not uploaded unless asked."""
    hidden = (".", "page/", "index.html")
    return {name: content for name, content in files_of(folder).items() if not name.startswith(hidden)}


def test_a_dataset_is_uploaded_whole_and_replaces_an_earlier_one(audio, tmp_path, token):
    arguments = ("push_to_hub=me/mine", "private=true", "license=cc-by-4.0", "max_slices_per_track=1", "page=true")
    hub = StandInHub()
    hub.files |= {"data/train-00007.parquet": b"old", "notes.md": b"mine"}
    with serving(hub):
        run(config_for(audio, tmp_path / "out", *arguments), endpoint=hub.endpoint)
        assert hub.files == visible(tmp_path / "out") | {"notes.md": b"mine"}
        hub.files.clear()
        # only the upload is left to do, this time with the page
        run(config_for(audio, tmp_path / "out", *arguments, "push_page=true"), endpoint=hub.endpoint)
    everything = {name: content for name, content in files_of(tmp_path / "out").items() if not name.startswith(".")}
    assert hub.files == everything and "index.html" in everything and set(everything) > set(visible(tmp_path / "out"))
    assert hub.created[0]["name"] == "mine" and hub.created[0]["type"] == "dataset"
    assert hub.created[0].get("private") is True or hub.created[0].get("visibility") == "private"
    assert b"\nlicense: cc-by-4.0\n" in hub.files["README.md"]


def test_a_hub_that_refuses_is_one_line_and_the_dataset_stays(audio, tmp_path, token):
    hub = StandInHub()
    hub.refuses = True
    with (
        serving(hub),
        pytest.raises(InputError, match=r"push_to_hub=me/mine: .*stays, run the same command again") as error,
    ):
        run(config_for(audio, tmp_path / "out", "push_to_hub=me/mine"), endpoint=hub.endpoint)
    assert "\n" not in str(error.value)
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["totals"]["tracks"] == 5


def test_an_impossible_repository_is_refused_before_anything_is_made(audio, tmp_path):
    with pytest.raises(InputError, match="push_to_hub=mine: not a repository; write user/name"):
        run(config_for(audio, tmp_path / "out", "push_to_hub=mine"))
    assert not (tmp_path / "out").exists()
