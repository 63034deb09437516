"""`captioner=`: captions from an endpoint or a function, with a cache, after failures, and after a stop."""

import json
import shutil
import signal
import sys

import pytest
from support.chat_server import chat_server
from support.corpus_files import write_tones

from data_prep.pipeline import prepare, run
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.runtime.errors import InputError, StoppedError


@pytest.fixture
def chat(monkeypatch):
    monkeypatch.setenv("CAPTIONER_API_KEY", "secret-key")
    with chat_server() as server:
        yield server


def config_for(audio, out, *arguments):
    base = [f"audio={audio}", f"out={out}", "spectrogram=tiny", "num_workers=0", "validation_ratio=0", "page=false"]
    source = [] if any(one.startswith("captions=") for one in arguments) else ["captions=sidecar"]
    return compose("prepare", PrepareConfig, [*base, *source, *arguments])


def songs(folder, count, captioned=0):
    write_tones(folder, count)
    for path in sorted(folder.glob("*.txt"))[captioned:]:
        path.unlink()
    return folder


def captions_of(folder):
    import pyarrow.parquet as pq

    rows = [row for shard in folder.shards("train") for row in pq.read_table(shard).to_pylist()]
    return {row["track_id"]: row["caption"] for row in rows}


def lines_of(out):
    lines = map(json.loads, (out / "manifest.jsonl").read_text().splitlines())
    return {line["track_id"]: line for line in lines}


def test_tracks_without_a_caption_get_one_and_are_asked_about_once(tmp_path, chat, capsys):
    audio, out = songs(tmp_path / "audio", 4, captioned=1), tmp_path / "out"
    shutil.copy(audio / "tone-003.wav", audio / "copy.wav")
    given = (f"captioner={chat.url}", "captioner_model=ears", "captioner_batch_size=2")
    folder = prepare(config_for(audio, out, *given, "trigger=zuzu"))
    captions = captions_of(folder)
    assert captions["tone-000"] == ["zuzu, a tone at 110 Hz"]
    assert sorted(captions[f"tone-00{number}"][0] for number in (1, 2, 3)) == [f"zuzu, caption {n}" for n in range(3)]
    assert captions["copy"] == captions["tone-003"]
    assert len(chat.requests) == 3 and chat.most_at_a_time <= 2
    assert "captioner: 3 of 3 tracks without a caption have one now" in capsys.readouterr().out
    prepare(config_for(audio, out, *given, "trigger=other", "overwrite=true"))
    assert len(chat.requests) == 3
    for path in out.rglob("*"):
        assert not path.is_file() or b"secret-key" not in path.read_bytes()


def test_a_track_that_fails_falls_to_the_next_source_and_the_same_command_asks_again(tmp_path, chat):
    audio, out = songs(tmp_path / "audio", 2), tmp_path / "out"
    given = (f"captioner={chat.url}", "captioner_model=ears", "captioner_batch_size=1")
    chat.answer = lambda number: "a caption" if number == 0 else (400, b'{"error": "too quiet"}')
    folder = prepare(config_for(audio, out, *given, "default_caption=some tone"))
    assert captions_of(folder) == {"tone-000": ["a caption"], "tone-001": ["some tone"]}
    assert lines_of(out)["tone-001"]["warnings"] == {"captioner failed": "status 400: too quiet"}
    assert folder.stats["warnings"] == {"captioner failed": 1}
    chat.answer = lambda number: "another caption"
    folder = prepare(config_for(audio, out, *given, "default_caption=some tone"))
    assert captions_of(folder) == {"tone-000": ["a caption"], "tone-001": ["another caption"]}
    assert len(chat.requests) == 3 and lines_of(out)["tone-001"]["warnings"] == {}
    prepare(config_for(audio, out, *given, "default_caption=some tone"))
    assert len(chat.requests) == 3


def test_a_track_without_any_caption_is_rejected_with_the_reason(tmp_path, chat):
    audio, out = songs(tmp_path / "audio", 2), tmp_path / "out"
    chat.answer = lambda number: "a caption" if number == 0 else (400, b'{"error": "too quiet"}')
    prepare(config_for(audio, out, f"captioner={chat.url}", "captioner_model=ears", "captioner_batch_size=1"))
    line = lines_of(out)["tone-001"]
    assert line["reason"] == "no caption"
    assert "the captioner failed (status 400: too quiet); run the same command again" in line["detail"]


def test_a_track_that_fails_is_captioned_by_listening_if_that_is_asked_for(tmp_path, chat):
    audio, out = songs(tmp_path / "audio", 2), tmp_path / "out"
    chat.answer = lambda number: "a caption" if number == 0 else (400, b"")
    given = (f"captioner={chat.url}", "captioner_model=ears", "captioner_batch_size=1", "captions=auto")
    folder = prepare(config_for(audio, out, *given))
    assert folder.stats["caption_sources"] == {"listening": 1, "the captioner": 1}
    assert lines_of(out)["tone-001"]["warnings"] == {"captioner failed": "status 400"}


def test_a_captioner_that_only_fails_ends_the_run_and_keeps_what_is_cut(tmp_path, chat):
    audio, out = songs(tmp_path / "audio", 12), tmp_path / "out"
    chat.answer = lambda number: (422, b'{"error": "no audio here"}')
    given = (f"captioner={chat.url}", "captioner_model=deaf", "captioner_batch_size=1")
    with pytest.raises(InputError, match="captioner: the first 8 tracks all failed: status 422: no audio here"):
        prepare(config_for(audio, out, *given))
    assert len(chat.requests) < 12
    chat.answer = lambda number: f"caption {number}"
    folder = prepare(config_for(audio, out, f"captioner={chat.url}", "captioner_model=ears"))
    assert len(captions_of(folder)) == 12


def test_a_stopped_run_keeps_its_answers(tmp_path, chat):
    audio, out = songs(tmp_path / "audio", 6), tmp_path / "out"
    given = (f"captioner={chat.url}", "captioner_model=ears", "captioner_batch_size=1")

    def answer(number):
        if number == 2:
            signal.raise_signal(signal.SIGTERM)
        return f"caption {number}"

    chat.answer = answer
    with pytest.raises(StoppedError, match="of 6 tracks are captioned; the same command continues"):
        prepare(config_for(audio, out, *given))
    asked = len(chat.requests)
    assert 3 <= asked < 6
    cache = next((out / ".captioner").iterdir())
    cache.write_bytes(cache.read_bytes() + b'{"file_hash": "torn')
    folder = prepare(config_for(audio, out, *given))
    assert len(chat.requests) == 6
    assert sorted(captions[0] for captions in captions_of(folder).values()) == [f"caption {n}" for n in range(6)]
    assert all(json.loads(line) for line in cache.read_text().splitlines() if "torn" not in line)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["captioner=https://host/v1", "captioner_model=m", "captioner_key_env=NO_KEY"], "NO_KEY is not set"),
        (["captioner=http://host/v1", "captioner_model=m"], "the key in CAPTIONER_API_KEY would travel unencrypted"),
        (["captioner=https://host/v1"], "name the model with captioner_model="),
        (["captioner=ftp://host/v1", "captioner_model=m", "captioner_key_env=null"], "begins with http:// or https://"),
        (["captioner=no_such_module:f"], "cannot be imported"),
        (["captioner=m:f", "captioner_key_env=sk-123"], "takes the name of an environment variable"),
        (["captioner=m:f", "captioner_batch_size=0"], "give 1 or more"),
        (["captioner=m:f", "captioner_s=0"], "captioner_s=0.0: give a number of seconds"),
        (["captioner=m:f", "captions=review"], "edit its captions on the dataset page"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(tmp_path, monkeypatch, given, problem):
    monkeypatch.setenv("CAPTIONER_API_KEY", "secret-key")
    songs(tmp_path / "audio", 1)
    with pytest.raises(InputError, match=problem) as caught:
        run(config_for(tmp_path / "audio", tmp_path / "out", *given))
    assert not (tmp_path / "out").exists()
    assert "sk-123" not in str(caught.value) and "secret-key" not in str(caught.value)


def test_a_function_captions_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text("def caption(paths):\n    return [f'tone {path.stem[-1]}' for path in paths]\n")
    prepare(config_for(songs(tmp_path / "audio", 3), tmp_path / "out", "captioner=mine:caption"))
    captions = captions_of(open_dataset_folder(tmp_path / "out"))
    assert captions == {f"tone-00{number}": [f"tone {number}"] for number in range(3)}
