"""`riffusion prepare out=URL`: the same dataset in a store, by machines that share nothing else."""

import os
import pickle
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from support.corpus_files import tone, write_tones, write_track
from support.stores import s3_server

from data_prep.output.folder import make_run, open_output
from data_prep.pipeline import make_sources, prepare
from data_prep.tracks import track_worker
from data_prep.tracks.track_store import RemoteTrackStore, Slice, TrackResult
from data_prep.tracks.track_worker import WorkerSetup
from riffusion_train.cli.main import main
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.dataset.store import open_dataset
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.runtime.hub import Store

COUNT = 6


def config_for(audio: Path | str, out: str | Path, *words: str) -> PrepareConfig:
    shared = [f"audio={audio}", f"out={out}", "spectrogram=small", "num_workers=0", "page=false"]
    return compose("prepare", PrepareConfig, [*shared, *words])


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tones(tmp_path_factory.mktemp("songs"), COUNT)
    write_track(folder / "silent.wav", 0 * tone(100, 6), "nothing to hear")
    return folder


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket of a local S3 server."""
    fsspec = pytest.importorskip("s3fs") and pytest.importorskip("fsspec")
    with s3_server(monkeypatch):
        name = f"data-{secrets.token_hex(4)}"
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
        yield f"s3://{name}"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(url: str) -> dict[str, bytes]:
    store = Store(url)
    return {name: store.read(name) for name in store.names()}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded."""
    names: list[str] = []
    decode = track_worker.decode_audio

    def noted(path: Path, folder: Path):
        names.append(path.name)
        return decode(path, folder)

    monkeypatch.setattr(track_worker, "decode_audio", noted)
    return names


def test_a_stopped_preparation_goes_on_in_a_bucket_and_ends_in_the_files_of_a_folder(
    audio: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    url = f"{bucket}/songs"
    with monkeypatch.context() as patch:
        patch.setattr(
            "riffusion_train.runtime.progress.ProgressReport.update",
            lambda report, done, figures: os.kill(os.getpid(), signal.SIGINT) if done == 3 else None,
        )
        with pytest.raises(StoppedError, match="3 of 7 tracks are finished; the same command continues"):
            prepare(config_for(audio, url))
    assert {name.split("/")[0] for name in Store(url).names()} == {".work"}
    with pytest.raises(InputError, match=f"{url} was made with .*seed=0 .now 1"):
        prepare(config_for(audio, url, "seed=1"))
    dataset = prepare(config_for(audio, url))
    assert sorted(decoded) == sorted(path.name for path in audio.glob("*.wav")), "none twice"
    folder = prepare(config_for(audio, tmp_path / "songs"))
    assert stored(url) == files_of(folder.path)
    assert dataset.fingerprint == folder.fingerprint
    assert open_dataset(url, cache_dir=tmp_path / "cache").num_slices("train") == folder.num_slices("train")


def test_a_dataset_in_a_store_is_extended_without_decoding_what_it_has(
    audio: Path, tmp_path: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    songs, url = tmp_path / "audio", f"file://{tmp_path}/store/songs"
    write_tones(songs, 4)
    words = ["duplicates=drop", "shard_size_mb=1", "writer=webdataset"]
    soundfile.write(songs / "copy.flac", *soundfile.read(songs / "tone-000.wav", dtype="int16"))
    (songs / "copy.txt").write_text("the same again")
    prepare(config_for(songs, url, *words))
    assert any(name.startswith(".left_out/") for name in Store(url).names())
    decoded.clear()
    prepare(config_for(songs, url, *words))
    assert "is complete" in capsys.readouterr().out
    write_tones(songs, 6)
    prepare(config_for(songs, url, *words))
    assert f"{url} is extended: the slices of" in capsys.readouterr().out
    assert sorted(decoded) == ["tone-004.wav", "tone-005.wav"]
    folder = prepare(config_for(songs, tmp_path / "songs", *words))
    assert stored(url) == files_of(folder.path)


def test_a_preparation_that_is_killed_while_it_uploads_goes_on(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    url = f"file://{tmp_path}/store/songs"
    upload = Store.upload

    def fail(store: Store, source, name: str) -> None:
        if name == "stats.json":
            raise KeyboardInterrupt
        upload(store, source, name)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "upload", fail)
        with pytest.raises(KeyboardInterrupt):
            prepare(config_for(audio, url))
    assert "data/train-00000.parquet" in Store(url).names()
    with pytest.raises(InputError, match=r"it has no stats.json"):
        open_dataset(url, cache_dir=tmp_path / "cache")
    decoded.clear()
    prepare(config_for(audio, url))
    assert not decoded
    assert stored(url) == files_of(prepare(config_for(audio, tmp_path / "songs")).path)


def test_a_machine_that_shares_nothing_but_the_store_cuts_tracks_for_another(
    audio: Path, bucket: str, tmp_path: Path, decoded: list[str]
) -> None:
    """What a Ray node gets and does, in a process of its own; with Ray itself: test_two_machines.py."""
    songs, url = Store(f"{bucket}/songs"), f"{bucket}/out"
    for path in audio.iterdir():
        songs.write(path.name, path.read_bytes())
    config = config_for(songs.url, url)
    run = make_run(config, make_sources(config))
    with open_output(url) as output:
        setup = pickle.dumps(WorkerSetup(run.cut, output.store(run.key)))
    own = tmp_path / "own"
    own.mkdir()
    names = sorted(path.name for path in audio.glob("tone*.wav"))[::2]
    done = subprocess.run(
        [sys.executable, "-c", _CUT, *(f"{songs.url}/{name}" for name in names)],
        input=setup, cwd=own, env=os.environ | {"TMPDIR": str(own), "PYTHONPATH": os.pathsep.join(sys.path)}, check=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert done.stdout.split() == [b"1"] * len(names)
    assert not list(own.iterdir())
    prepare(config)
    assert len(decoded) == COUNT + 1 - len(names)
    assert stored(url) == files_of(prepare(config_for(songs.url, tmp_path / "out")).path)


_CUT = """
import pickle, sys
from data_prep.tracks.track_worker import make_track_worker, one_thread
with one_thread():
    work = make_track_worker(pickle.loads(sys.stdin.buffer.read()))
    for url in sys.argv[1:]:
        print(work(url).slices)
"""


def test_what_another_command_writes_or_what_is_no_dataset_is_left_alone(audio: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "songs").mkdir(parents=True)
    (store / "songs" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"songs is not empty and not a dataset \(notes.txt is in it\)"):
        prepare(config_for(audio, f"file://{store}/songs"))
    assert files_of(store) == {"songs/notes.txt": b"mine"}


@pytest.mark.parametrize(
    ("out", "words", "problem"),
    [
        (
            "s3://nobody/songs",
            [],
            "out=s3://nobody/songs: .*bucket does not exist; give the address of a folder in a bucket",
        ),
        ("foo://songs", [], "out=foo://songs: .*Protocol not known: foo"),
        (
            "https://example.org/songs",
            [],
            "out=https://example.org/songs: https addresses are only read; give a folder",
        ),
        ("hf://datasets/me/songs", [], "give a folder, and upload the dataset with push_to_hub="),
        ("s3://{bucket}/songs", ["part=1/2"], "part= does not go with a URL"),
        ("s3://{bucket}/songs", ["writer=folder"], "writer=folder does not go with a URL"),
        ("s3://{bucket}/songs", ["push_to_hub=me/songs"], "push_to_hub= does not go with a URL"),
        ("s3://{bucket}/songs", ["captions=review"], "captions=review does not go with a URL"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_in_one_line(
    audio: Path, bucket: str, capsys: pytest.CaptureFixture[str], out: str, words: list[str], problem: str
) -> None:
    out = out.format(bucket=bucket.removeprefix("s3://"))
    assert main(["prepare", f"audio={audio}", f"out={out}", "spectrogram=small", "num_workers=0", *words]) == 2
    said = capsys.readouterr().err
    assert re.search(problem, said), said
    assert said.count("\n") == 1


def test_a_store_without_credentials_or_its_package_is_refused_in_one_line(
    audio: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prepare", f"audio={audio}", f"out={bucket}/songs", "spectrogram=small", "num_workers=0"]
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    assert main(command) == 2
    assert "give this store's credentials as its own tools take them" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert main(["gs://bucket/songs".join(word.split(f"{bucket}/songs")) for word in command]) == 2
    said = capsys.readouterr().err
    assert "pip install 'riffusion-train[remote]'" in said
    assert said.count("\n") == 1


def test_the_command_says_how_to_train_and_that_there_is_no_page(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{tmp_path}/store"
    assert main(["prepare", f"audio={audio}", f"out={url}", "spectrogram=small", "num_workers=0"]) == 0
    said = capsys.readouterr().out
    assert f"{url}: {COUNT} tracks" in said
    assert "no page: it opens from a disk" in said
    assert f"next: riffusion train dataset={url} " in said


def test_a_track_file_that_is_cut_short_in_a_store_counts_as_missing(tmp_path: Path) -> None:
    tracks = RemoteTrackStore(Path("tracks"), "key", store=Store(f"file://{tmp_path}"))
    result = TrackResult("hash", slices=300, warnings={"long": "x" * 100_000})
    tracks.write(result, [Slice(bytes([number % 256]) * 9, number, 1.0, 2.0) for number in range(300)])
    assert tracks.read("hash") == result
    assert [item.start_s for item in tracks.read_slices("hash")] == list(range(300))
    path = tmp_path / "tracks" / "hash-key.arrow"
    for size in (path.stat().st_size - 1, 1000, 5, 0):
        os.truncate(path, size)
        assert tracks.read("hash") is None
    assert tracks.read("other") is None
