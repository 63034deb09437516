"""All that `audio=` and `table=` may name: patterns, lists, tables, data sets, stores behind URLs."""

import contextlib
import functools
import http.server
import json
import os
import threading

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpus_files import write_tones

from data_prep.pipeline import prepare
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.runtime.errors import InputError


def prepared(audio, out, *arguments):
    base = [f"audio={audio}", f"out={out}", "spectrogram=tiny", "num_workers=0", "validation_ratio=0"]
    return prepare(compose("prepare", PrepareConfig, [*base, *arguments]))


def captions_of(folder):
    rows = [
        row for split in ("train", "test") for shard in folder.shards(split) for row in pq.read_table(shard).to_pylist()
    ]
    return {row["source"]: row["caption"] for row in rows}


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = write_tones(tmp_path_factory.mktemp("audio"), 3)
    (folder / "sub").mkdir()
    for name in ("tone-002.wav", "tone-002.txt"):
        (folder / name).rename(folder / "sub" / name)
    return folder


EXPECTED = {
    "tone-000.wav": ["a tone at 110 Hz"],
    "tone-001.wav": ["a tone at 117 Hz"],
    "sub/tone-002.wav": ["a tone at 123 Hz"],
}


def test_a_pattern_and_a_list_choose_files_and_keep_their_sidecars(audio, tmp_path):
    assert captions_of(prepared(audio / "**" / "*.wav", tmp_path / "all")) == EXPECTED
    chosen = captions_of(prepared(audio / "tone-*1.wav", tmp_path / "one"))
    assert chosen == {"tone-001.wav": ["a tone at 117 Hz"]}
    (audio / "chosen.m3u").write_text("#EXTM3U\nsub/tone-002.wav\ntone-000.wav\ngone.wav\n")
    folder = prepared(audio / "chosen.m3u", tmp_path / "list")
    assert set(captions_of(folder)) == {"sub/tone-002.wav", "tone-000.wav"}
    assert folder.stats["rejected"] == {"file not found": 1}
    with pytest.raises(InputError, match="no audio file matches this pattern"):
        prepared(audio / "*.ogg", tmp_path / "none")


def test_a_parquet_table_names_files(audio, tmp_path):
    rows = {"path": ["tone-000.wav", "sub/tone-002.wav"], "text": [["a", "b"], ["c"]], "bpm": [90.0, float("nan")]}
    pq.write_table(pa.table(rows), tmp_path / "table.parquet")
    folder = prepared(audio, tmp_path / "out", f"table={tmp_path / 'table.parquet'}", "captions=table")
    assert captions_of(folder) == {"tone-000.wav": ["a", "b"], "sub/tone-002.wav": ["c"]}
    assert pq.read_table(folder.shards("train")[0])["bpm"].to_pylist() == [None, 90.0]
    (tmp_path / "bad.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        prepared(audio, tmp_path / "bad", f"table={tmp_path / 'bad.parquet'}")


def write_data_set(audio, folder):
    """Parquet with an Audio column, as on the Hub; `datasets` itself would want torchcodec to write one."""
    features = datasets.Features(
        {"sound": datasets.Audio(), "text": datasets.Value("string"), "bpm": datasets.Value("int64")}
    )
    for split, names in (("train", ("tone-000.wav", "tone-001.wav")), ("test", ("sub/tone-002.wav",))):
        cells = [{"bytes": (audio / name).read_bytes(), "path": name} for name in names]
        columns = {"sound": cells, "text": [f"row {name}" for name in names], "bpm": [90] * len(names)}
        (folder / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns, schema=features.arrow_schema), folder / "data" / f"{split}-00000.parquet")
    return folder


def test_a_data_set_of_the_hub_gives_its_bytes_captions_and_splits(audio, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    local = write_data_set(audio, tmp_path / "local")
    expected = {
        "train/000000.wav": ["row tone-000.wav"],
        "train/000001.wav": ["row tone-001.wav"],
        "test/000000.wav": ["row sub/tone-002.wav"],
    }
    folder = prepared(f"datasets:{local}", tmp_path / "out")
    assert captions_of(folder) == expected
    assert folder.num_slices("test") == 1 and pq.read_table(folder.shards("test")[0])["bpm"].to_pylist() == [90]
    datasets.load_dataset(str(local)).save_to_disk(str(tmp_path / "saved"))
    again = prepared(f"datasets:{tmp_path / 'saved'}", tmp_path / "again")
    assert again.fingerprint == folder.fingerprint
    with pytest.raises(InputError, match="audio=datasets:"):
        prepared(f"datasets:{tmp_path / 'nowhere'}", tmp_path / "no")


def test_a_store_behind_a_url_gives_the_same_images_as_the_folder(audio, tmp_path):
    store = fsspec.filesystem("memory")
    store.put(f"{audio}/", "/bucket/songs/", recursive=True)
    remote = prepared("memory://bucket/songs", tmp_path / "remote")
    assert captions_of(remote) == EXPECTED
    assert remote.fingerprint == prepared(audio, tmp_path / "local").fingerprint
    store.pipe("/bucket/songs/captions.csv", b"file,caption\ntone-000.wav,from the table\n")
    table = prepared("memory://bucket/songs", tmp_path / "table", "captions=table")
    assert captions_of(table) == {"tone-000.wav": ["from the table"]}
    with pytest.raises(InputError, match="audio=memory://bucket/empty"):
        prepared("memory://bucket/empty", tmp_path / "empty")
    with pytest.raises(InputError, match="audio=nosuch://x"):
        prepared("nosuch://x", tmp_path / "kind")


@contextlib.contextmanager
def serving_folder(folder):
    """Serve a folder; gives its address, and a list of the audio files that were fetched so far."""
    fetched = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path.endswith(".wav"):
                fetched.append(self.path.rpartition("/")[2])
            super().do_GET()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def web(audio):
    with serving_folder(audio) as (address, _):
        yield address


def test_a_remote_file_is_fetched_once_unless_it_changes(tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    folder = write_tones(tmp_path / "songs", 2)
    with serving_folder(folder) as (address, fetched):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("data_prep.output.finish.assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            prepared(address, tmp_path / "out")
        assert fetched == ["tone-000.wav", "tone-001.wav"]
        prepared(address, tmp_path / "out")  # resumes
        assert len(fetched) == 2
        third = write_tones(tmp_path / "more", 3) / "tone-002.wav"
        for path in (third, third.with_suffix(".txt")):
            path.rename(folder / path.name)
        prepared(address, tmp_path / "out")  # is extended
        assert fetched[2:] == ["tone-002.wav"]
        os.utime(folder / "tone-000.wav", (1, 1))  # as if it had been replaced
        (folder / "tone-001.txt").write_text("another caption")
        assert captions_of(prepared(address, tmp_path / "out"))["tone-001.wav"] == ["another caption"]
        assert fetched[3:] == ["tone-000.wav"]


def test_a_web_server_is_listed_and_a_table_may_hold_urls(web, audio, tmp_path):
    pytest.importorskip("aiohttp")
    assert captions_of(prepared(web, tmp_path / "folder")) == EXPECTED
    empty = tmp_path / "tables"
    empty.mkdir()
    rows = [{"file": f"{web}/tone-000.wav", "caption": "x"}, {"file": f"{web}/gone.wav", "caption": "y"}]
    (empty / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = prepared(empty, tmp_path / "out")
    assert captions_of(folder) == {f"{web}/tone-000.wav": ["x"]}
    assert folder.stats["rejected"] == {"unreadable": 1}
    assert (
        "cannot be fetched: nothing is found there (404); check the address"
        in (folder.path / "manifest.jsonl").read_text()
    )


def test_an_address_that_does_not_exist_is_not_called_a_folder_without_audio(web, audio, tmp_path):
    pytest.importorskip("aiohttp")
    with pytest.raises(InputError, match=rf"audio={web}/nowhere: cannot be listed: nothing is found there \(404\)"):
        prepared(f"{web}/nowhere", tmp_path / "out")
    with pytest.raises(InputError, match=rf"table={web}/no.csv: nothing is found there \(404\)"):
        prepared(audio, tmp_path / "out", f"table={web}/no.csv")
    with pytest.raises(InputError, match=r"audio=http://127.0.0.1:9/x: cannot be listed: Cannot connect"):
        prepared("http://127.0.0.1:9/x", tmp_path / "out")
    (audio / "empty").mkdir()
    with pytest.raises(InputError, match=rf"audio={web}/empty: no audio files in it"):
        prepared(f"{web}/empty", tmp_path / "out")
