"""Captioners: what is sent and read, which errors pass, and what a function may return."""

import sys
import time

import pytest
from support.chat_server import chat_server
from support.corpus_files import chord, tone, write_audio

from data_prep.captions.captioner import Answer, EndpointCaptioner, FunctionCaptioner
from riffusion_train.runtime.errors import InputError


@pytest.fixture
def chat():
    with chat_server() as server:
        yield server


@pytest.fixture
def song(tmp_path):
    return write_audio(tmp_path / "song.wav", chord(220, 3.0))


def endpoint(chat, **options):
    defaults = {"model": "ears", "prompt": "What is this?", "api_key": "secret-key", "heard_s": 2.0}
    return EndpointCaptioner(chat.url, calls_at_a_time=2, wait_s=0.01, **(defaults | options))


def never():
    return False


def test_the_middle_of_a_track_is_sent_with_prompt_model_and_key(chat, song):
    assert endpoint(chat).ask([song], never) == [Answer(("caption 0",))]
    assert chat.requests[0]["model"] == "ears"
    assert chat.requests[0]["messages"][0]["content"][0] == {"type": "text", "text": "What is this?"}
    assert chat.headers[0]["Authorization"] == "Bearer secret-key"
    wav, rate_hz = chat.sound(0)
    assert wav.shape == (48000,) and rate_hz == 24000 and abs(wav).max() > 0.05


def test_without_a_key_none_is_sent_and_the_whole_track_can_be(chat, song):
    endpoint(chat, api_key=None, heard_s=None).ask([song], never)
    assert "Authorization" not in chat.headers[0]
    assert len(chat.sound(0)[0]) == 72000


def test_every_line_of_an_answer_is_a_caption(chat, song):
    chat.answer = lambda number: '- "slow dub"\n\n2. a low organ, 80 bpm\nslow dub\n'
    assert endpoint(chat).ask([song], never) == [Answer(("slow dub", "a low organ, 80 bpm"))]


@pytest.mark.parametrize(
    "passing",
    [(429, b"{}"), (500, b"down"), (503, b""), (200, b"not json"), (200, b'{"choices": []}'), ""],
    ids=["rate limit", "error", "unavailable", "bad json", "no choice", "empty answer"],
)
def test_errors_that_pass_are_tried_again(chat, song, passing):
    chat.answer = lambda number: passing if number < 2 else "at last"
    assert endpoint(chat).ask([song], never) == [Answer(("at last",))]
    assert len(chat.requests) == 3


def test_errors_that_stay_fail_the_track_after_five_attempts(chat, song):
    chat.answer = lambda number: (500, b'{"error": {"message": "out of\\nmemory"}}')
    assert endpoint(chat).ask([song], never) == [Answer(problem="status 500: out of memory")]
    assert len(chat.requests) == 5


def test_the_pause_that_a_server_asks_for_is_kept(chat, song):
    chat.answer = lambda number: (429, b"") if number == 0 else "at last"
    chat.retry_after = "0.3"
    start_s = time.monotonic()
    assert endpoint(chat).ask([song], never) == [Answer(("at last",))]
    assert time.monotonic() - start_s > 0.3


def test_a_stop_ends_the_pause(chat, song):
    chat.answer = lambda number: (503, b"")
    start_s = time.monotonic()
    captioner = EndpointCaptioner(chat.url, model="m", prompt="", api_key=None, heard_s=1, calls_at_a_time=1, wait_s=60)
    captioner.ask([song], lambda: bool(chat.requests))
    assert time.monotonic() - start_s < 5 and len(chat.requests) == 1


def test_a_request_that_does_not_fit_fails_its_track_at_once(chat, song):
    chat.answer = lambda number: (413, b'{"error": "too long"}')
    assert endpoint(chat).ask([song], never) == [Answer(problem="status 413: too long")]
    assert len(chat.requests) == 1


def test_a_refused_key_ends_the_run_and_is_not_repeated(chat, song):
    chat.answer = lambda number: (401, b'{"error": {"message": "bad key secret-key"}}')
    with pytest.raises(InputError, match="status 401: bad key …; check the address, the model and the key") as caught:
        endpoint(chat).ask([song], never)
    assert "secret-key" not in str(caught.value)


def test_a_file_that_cannot_be_decoded_fails_alone(chat, song, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    answers = endpoint(chat).ask([tmp_path / "broken.wav", song], never)
    assert answers[0].problem and answers[1].captions == ("caption 0",)


def test_an_unreachable_server_is_named(song):
    captioner = EndpointCaptioner(
        "http://127.0.0.1:9/v1", model="m", prompt="", api_key=None, heard_s=1, calls_at_a_time=1, wait_s=0.01
    )
    assert "cannot be reached" in captioner.ask([song], never)[0].problem


@pytest.mark.parametrize("url", ["https://me:word@host/v1", "https://host/v1?key=1"])
def test_secrets_in_the_address_are_refused(url):
    with pytest.raises(InputError, match="leave user, password and query out"):
        EndpointCaptioner(url, model="m", prompt="", api_key=None, heard_s=1, calls_at_a_time=1)


def test_the_cache_key_follows_what_decides_the_captions(chat):
    keys = {endpoint(chat, **options).key for options in ({}, {"model": "b"}, {"prompt": "b"}, {"heard_s": 9.0})}
    assert len(keys) == 4
    assert endpoint(chat, api_key="other").key == endpoint(chat).key


def function_captioner(tmp_path, monkeypatch, body):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(body)
    sys.path_importer_cache.clear()
    return FunctionCaptioner("mine:caption", 4)


def test_a_function_returns_text_texts_or_none(tmp_path, monkeypatch):
    body = "def caption(paths):\n    return [paths[0].name, ['one', 'two'], None]\n"
    answers = function_captioner(tmp_path, monkeypatch, body).ask([tmp_path / name for name in "abc"], never)
    assert answers == [Answer(("a",)), Answer(("one", "two")), Answer(problem="it returned no caption")]


def test_a_function_that_fails_for_a_batch_is_called_for_each_file(tmp_path, monkeypatch):
    body = "def caption(paths):\n    return [1 / (path.name != 'b') and path.name for path in paths]\n"
    answers = function_captioner(tmp_path, monkeypatch, body).ask([tmp_path / name for name in "abc"], never)
    assert answers == [Answer(("a",)), Answer(problem="ZeroDivisionError: division by zero"), Answer(("c",))]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("def caption(paths):\n    return 'one'\n", "returned str for 2 paths; return a list"),
        ("def caption(paths):\n    return ['one']\n", "returned 1 results for 2 paths"),
        ("def caption(paths):\n    return [1, 2]\n", "returned int for a track"),
    ],
)
def test_a_function_that_keeps_to_no_contract_ends_the_run(tmp_path, monkeypatch, body, problem):
    captioner = function_captioner(tmp_path, monkeypatch, body)
    with pytest.raises(InputError, match=problem):
        captioner.ask([tmp_path / "a", tmp_path / "b"], never)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("mine", "give module:function, or a URL"),
        ("no_such_module:f", "cannot be imported: No module named"),
        ("json:nothing", "cannot be imported: .*nothing"),
        ("json:__doc__", "__doc__ is not a function"),
    ],
)
def test_a_function_that_cannot_be_imported_is_one_line(name, problem):
    with pytest.raises(InputError, match=problem):
        FunctionCaptioner(name, 4)


def test_another_source_of_the_function_is_another_captioner(tmp_path, monkeypatch):
    body = "def caption(paths):\n    return ['a'] * len(paths)\n"
    first = function_captioner(tmp_path, monkeypatch, body).key
    assert function_captioner(tmp_path, monkeypatch, body + "# new\n").key != first


def test_a_track_of_many_channels_is_sent_in_mono(chat, tmp_path):
    endpoint(chat).ask([write_audio(tmp_path / "mono.wav", tone(200, 1.0))], never)
    assert chat.sound(0)[0].shape == (24000,)
