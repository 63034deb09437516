"""The live player's server, as clients meet it."""

import base64
import io
import json
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile
from support.player import Player, served_player, stream_address
from support.sampling import write_melody
from websockets.sync.client import connect

from riffusion_train.player.session import Timeouts

pytestmark = pytest.mark.real_time

SEGMENT = 32 * 400
RATE_HZ = 16000


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with served_player(max_streams=50) as served:
        yield served


def played(
    player: Player, count: int, **settings: Any
) -> tuple[dict[str, Any], list[tuple[dict[str, Any], bytes, bytes]]]:
    """Begin a session, listen to its first segments and stay for as long as the test does."""
    session = player.begin(**settings)
    with player.listen(session) as listening:
        segments = []
        for index in range(count):
            listening.credit(1, index * SEGMENT)
            segments.append(listening.segment())
        listening.credit(0, count * SEGMENT)
        while player.ask("GET", f"/api/sessions/{session['id']}")[1]["playing_segment"] < count - 1:
            time.sleep(0.01)
    return session, segments


def samples_of(data: bytes) -> tuple[np.ndarray, int]:
    with wave.open(io.BytesIO(data)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


def data_of(uri: str, kind: str) -> bytes:
    head, _, text = uri.partition(",")
    assert head == f"data:{kind};base64"
    return base64.b64decode(text)


def test_a_stream_says_what_it_is_and_every_segment_is_whole(player: Player):
    session = player.begin(prompt="slow drums", seed=3)
    with player.listen(session) as listening:
        hello = listening.hello
        assert (hello["rate_hz"], hello["channels"], hello["segment_samples"]) == (RATE_HZ, 1, SEGMENT)
        assert (hello["columns"], hello["n_mels"], hello["live_index"]) == (32, 32, 0)
        assert hello["settings"]["prompt"] == "slow drums"
        listening.credit(3)
        for index in range(3):
            announced, pcm, png = listening.segment()
            assert (announced["index"], announced["start_sample"], announced["n_samples"]) == (
                index,
                index * SEGMENT,
                SEGMENT,
            )
            assert len(pcm) == 2 * SEGMENT
            assert PIL.Image.open(io.BytesIO(png)).size == (32, 32)
            assert announced["discontinuity"] is False


def test_a_prompt_is_heard_at_once_and_replaces_what_was_made_ahead(player: Player):
    session = player.begin(prompt="one")
    with player.listen(session) as listening:
        listening.credit(3, paused=True)  # time stands still, on however slow a machine
        made = [listening.segment() for _ in range(3)]
        answer = player.change(session, now="two", played_sample=100)
        announced, pcm, png = listening.segment()  # nobody had to ask for it
        assert announced["change"] == answer["change"] == 1
        assert (announced["index"], announced["prompt_from"], announced["prompt_to"]) == (1, "two", "two")
        start = announced["start_sample"]
        assert 100 < start < SEGMENT and answer["delay_s"] > 0
        assert len(pcm) == 2 * announced["n_samples"]
        assert PIL.Image.open(io.BytesIO(png)).size == (announced["n_samples"] // 400, 32)
        state = player.ask("GET", f"/api/sessions/{session['id']}")[1]
        assert [(row["prompt"], row["from_segment"]) for row in state["queue"]] == [("one", 0), ("two", 1)]
        # A recording has what is heard: the old sound, and from the change on the new one.
        stop = start + announced["n_samples"]
        address = f"/api/sessions/{session['id']}/recording.wav?last_s={stop / RATE_HZ!r}&to_sample={stop}"
        wav, _ = samples_of(player.ask("GET", address)[1])
        np.testing.assert_array_equal(wav[:start], np.frombuffer(made[0][1], "<i2")[:start])
        np.testing.assert_array_equal(wav[start:], np.frombuffer(pcm, "<i2"))


def test_a_queued_prompt_begins_at_once_and_takes_its_clips(player: Player):
    session = player.begin(prompt="one", clips=2)
    with player.listen(session) as listening:
        listening.credit(1, paused=True)
        listening.segment()
        answer = player.change(session, prompt="two", played_sample=100)
        assert [(row["prompt"], row["state"]) for row in answer["queue"]] == [("one", "playing"), ("two", "next")]
        announced, _, _ = listening.segment()
        assert announced["index"] == answer["takes_effect_at"] == answer["queue"][1]["from_segment"] == 1
        assert (announced["prompt_from"], announced["prompt_to"], announced["alpha"]) == ("one", "two", 0.5)
        listening.credit(1, announced["start_sample"] + 10)
        announced, _, _ = listening.segment()
        assert (announced["prompt_from"], announced["prompt_to"], announced["alpha"]) == ("two", "two", 0.0)
        states = [one for one in listening.messages if one["type"] == "queue"]
        assert states[-1]["queue"][1]["state"] == "playing"


def test_a_fader_of_a_lora_that_the_player_has_not_is_refused(player: Player):
    status, body, _ = player.ask("POST", "/api/sessions", {"loras": [{"name": "mine", "scale": 1}]})
    assert status == 400 and "started without --lora" in body["error"]


def test_two_listeners_of_one_session_get_the_same_bytes_in_order(player: Player):
    session = player.begin(prompt="for two")
    with player.listen(session) as one, player.listen(session) as other:
        segments: list[list[bytes]] = [[], []]
        for index in range(4):
            for listening, kept in zip((one, other), segments, strict=True):
                listening.credit(1, index * SEGMENT)
                kept.append(listening.segment()[1])
        assert segments[0] == segments[1]
        assert player.ask("GET", f"/api/sessions/{session['id']}")[1]["listeners"] == 2


def test_a_link_to_any_moment_restores_it_to_the_sample(player: Player):
    session = player.begin(prompt="here", seed=9, clips=2, seed_image="beats")
    with player.listen(session) as listening:
        listening.credit(1)
        segments = [listening.segment()]
        player.change(session, prompt="there")
        for index in range(3):
            listening.credit(1, index * SEGMENT)
            segments.append(listening.segment())
    for announced, pcm, png in segments:
        link = json.loads(json.dumps(announced["share"]))
        _, again = played(player, 1, **link)
        assert again[0][1:] == (pcm, png)


def test_a_recording_has_exactly_the_length_that_was_asked_for(player: Player):
    session, segments = played(player, 4)
    whole = np.concatenate([np.frombuffer(pcm, "<i2") for _, pcm, _ in segments])
    address = f"/api/sessions/{session['id']}/recording"
    for samples, stop in ((RATE_HZ, 3 * SEGMENT), (12345, 30001), (2 * SEGMENT + 1, 4 * SEGMENT)):
        status, body, headers = player.ask("GET", f"{address}.wav?last_s={samples / RATE_HZ!r}&to_sample={stop}")
        wav, rate_hz = samples_of(body)
        assert (status, rate_hz, len(wav)) == (200, RATE_HZ, samples)
        np.testing.assert_array_equal(wav, whole[stop - samples : stop])
        assert "attachment" in headers["content-disposition"]
    # By itself it ends with what is heard, and more than was played is all of it.
    wav, _ = samples_of(player.ask("GET", f"{address}.wav?last_s=100")[1])
    np.testing.assert_array_equal(wav, whole)


def test_a_recording_comes_as_mp3_and_as_an_image_too(player: Player):
    session, segments = played(player, 3)
    address = f"/api/sessions/{session['id']}/recording"
    _, mp3, headers = player.ask("GET", f"{address}.mp3?last_s=1.5")
    wav, rate_hz = soundfile.read(io.BytesIO(mp3))
    assert (rate_hz, len(wav)) == (RATE_HZ, 24000)
    assert headers["content-type"] == "audio/mpeg"
    _, png, _ = player.ask("GET", f"{address}.png?last_s=1.6&to_sample={2 * SEGMENT}")
    drawn = [np.asarray(PIL.Image.open(io.BytesIO(one[2]))) for one in segments[:2]]
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(png))), np.concatenate(drawn, axis=1))


def test_a_segment_can_be_fetched_by_its_number(player: Player):
    session, segments = played(player, 2)
    address = f"/api/sessions/{session['id']}/segments"
    assert player.ask("GET", f"{address}/1.png")[1] == segments[1][2]
    wav, _ = samples_of(player.ask("GET", f"{address}/1.wav")[1])
    np.testing.assert_array_equal(wav, np.frombuffer(segments[1][1], "<i2"))
    for name in ("2.png", "x.png", "1.exe", "-1.png", "99999999999999999999.wav"):
        assert player.ask("GET", f"{address}/{name}")[0] == 404


def test_only_the_token_steers(player: Player):
    session = player.begin()
    path = f"/api/sessions/{session['id']}"
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {session['token']}"}):
        status, body, _ = player.ask("PATCH", path, {"prompt": "x"}, **headers)
        assert status == 403 and "only who began this session" in body["error"]
    assert player.change(session, guidance_scale=3)["settings"]["guidance_scale"] == 3.0


def test_an_upload_becomes_what_the_music_riffs_on(player: Player, tmp_path: Path):
    status, body, _ = _upload(player, _melody(tmp_path), "mine <b>.wav")
    assert (status, body["name"], round(body["duration_s"], 2)) == (201, "mine <b>.wav", 2.0)
    _, plain = played(player, 1, seed=1, strength=0.0, seed_image="beats")
    _, riffed = played(player, 1, seed=1, strength=0.0, seed_upload=body["id"])
    assert plain[0][1] != riffed[0][1]
    assert riffed[0][0]["share"]["seed_upload"] == body["id"]
    status, answer, _ = player.ask("POST", "/api/sessions", {"seed_upload": "gone"})
    assert status == 400 and "upload the audio again" in answer["error"]


def test_what_is_not_audio_is_refused_in_one_line(player: Player, tmp_path: Path):
    playlist = b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n"
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(8000), 8000, format="WAV")
    for data, message in (
        (playlist, "is not audio that can be read"),
        (b"", "is not audio that can be read"),
        (b"RIFF" + bytes(100), "is damaged or not audio"),
        (b"\x1aE\xdf\xa3" + bytes(100), "is damaged or not audio"),
        (silence.getvalue(), "contains no sound"),
    ):
        status, body, _ = _upload(player, data, "song.mp3")
        assert status == 400 and message in body["error"] and "\n" not in body["error"], body


def test_one_clip_for_scripts(player: Player):
    asked = {"prompt": "a band", "seed": 4, "guidance_scale": 1, "num_inference_steps": 2}
    status, body, _ = player.ask("POST", "/api/clips", asked)
    assert status == 200
    wav, rate_hz = samples_of(data_of(body["audio"], "audio/wav"))
    assert rate_hz == RATE_HZ and len(wav) == 31 * 400 and np.abs(wav).max() > 1000
    assert PIL.Image.open(io.BytesIO(data_of(body["image"], "image/png"))).size == (32, 32)
    assert {key: body["settings"][key] for key in asked} == asked
    assert player.ask("POST", "/api/clips", asked)[1] == body
    _, as_mp3, _ = player.ask("POST", "/api/clips", {**asked, "format": "mp3"})
    assert len(soundfile.read(io.BytesIO(data_of(as_mp3["audio"], "audio/mpeg")))[0]) == len(wav)


def test_clients_of_the_original_server_are_answered_as_by_it(player: Player):
    end = {"prompt": "church bells", "seed": 42, "denoising": 0.75, "guidance": 7.0, "negative_prompt": None}
    asked = {
        "alpha": 0.25, "num_inference_steps": 4, "seed_image_id": "og_beat", "mask_image_id": None,
        "start": end, "end": {**end, "prompt": "jazz", "seed": 123},
    }  # fmt: skip
    status, body, _ = player.ask("POST", "/run_inference/", asked)
    assert status == 200 and set(body) == {"image", "audio", "duration_s"}
    assert body["duration_s"] == pytest.approx(0.8)
    image = PIL.Image.open(io.BytesIO(data_of(body["image"], "image/jpeg")))
    assert (image.size, image.mode) == ((32, 32), "RGB")
    assert len(soundfile.read(io.BytesIO(data_of(body["audio"], "audio/mpeg")))[0]) == SEGMENT
    # As little as the original needed, and both ends of the transition.
    ends = []
    for alpha in (0, 1):
        least = {"alpha": alpha, "start": {"prompt": "a", "seed": 1}, "end": {"prompt": "b", "seed": 2}}
        ends.append(player.ask("POST", "/run_inference/", {**least, "num_inference_steps": 4})[1]["image"])
        swapped = {**least, "alpha": 1 - alpha, "start": least["end"], "end": least["start"], "num_inference_steps": 4}
        assert player.ask("POST", "/run_inference/", swapped)[1]["image"] == ends[-1]
    assert ends[0] != ends[1]
    # The original's web app sends an empty text for no mask.
    unmasked = {**least, "mask_image_id": "", "num_inference_steps": 4}
    assert player.ask("POST", "/run_inference/", unmasked)[1]["image"] == ends[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": None}, "alpha"),
        ({"alpha": "x"}, "alpha"),
        ({"start": {"seed": 1}}, "start.prompt"),
        ({"end": {"prompt": "x", "seed": "1"}}, "end: seed"),
        ({"seed_image_id": "../../../etc/passwd"}, "seed_image_id: is unknown; choose from: og_beat"),
        ({"mask_image_id": "mask_top_third_75"}, "mask_image_id"),
        ({"num_inference_steps": 10**6}, "num_inference_steps"),
    ],
)
def test_wrong_requests_of_the_original_s_clients_are_answered_with_text(
    player: Player, changes: dict[str, Any], message: str
):
    asked = {"alpha": 0.5, "start": {"prompt": "a", "seed": 1}, "end": {"prompt": "b", "seed": 2}, **changes}
    status, body, headers = player.ask("POST", "/run_inference/", asked)
    assert status == 400 and message in body.decode() and headers["content-type"].startswith("text/plain")


def test_a_page_learns_what_there_is_to_choose_from(player: Player):
    status, body, _ = player.ask("GET", "/api/choices")
    assert status == 200
    assert {one["id"] for one in body["seed_images"]} == {"beats", "half_time", "plucked", "pad"}
    assert all(0 < len(prompt) <= body["limits"]["prompt_chars"] for prompt in body["dice"])
    assert len(set(body["dice"])) == len(body["dice"]) >= 30
    assert set(body["builder"]) == {"genre", "mood", "instrument", "tempo"}
    assert len(body["row_hz"]) == 32 and body["row_hz"] == sorted(body["row_hz"])
    assert player.begin(**body["settings"])["settings"] == body["settings"]


def test_the_interface_is_documented_and_metrics_can_be_fetched(player: Player):
    _, spec, _ = player.ask("GET", "/openapi.json")
    assert {"/api/sessions", "/api/sessions/{id}", "/api/clips", "/api/uploads", "/run_inference/"} <= set(
        spec["paths"]
    )
    body = spec["paths"]["/api/clips"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert spec["components"]["schemas"][body["$ref"].split("/")[-1]]["required"] == ["prompt"]
    assert "422" not in json.dumps(spec)
    original = spec["paths"]["/run_inference/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(original["required"]) == {"alpha", "start", "end"}
    assert player.ask("GET", "/healthz")[1] == {"status": "ok"}
    metrics = player.ask("GET", "/metrics")[1]
    assert metrics["real_time_factor"] > 0 and metrics["segments_made"] > 0 and metrics["ring_bytes"] > 0


def test_the_example_of_the_docs_works(player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = (Path(__file__).parents[2] / "docs" / "play_api.md").read_text(encoding="utf-8")
    example = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(example.replace("localhost:8000", player.address.removeprefix("http://")), {})
    assert (tmp_path / "piano.pcm").stat().st_size == 4 * 2 * SEGMENT


def test_a_full_player_says_so_with_a_position_in_line():
    with served_player(max_streams=1, timeouts=Timeouts(alone_s=2.0)) as player:
        first = player.begin()
        with player.listen(first) as listening:
            listening.credit(1)
            listening.segment()
            status, body, headers = player.ask("POST", "/api/sessions", {})
            assert (status, body["position"], headers["retry-after"]) == (503, 1, "5")
            assert player.ask("POST", "/api/sessions", {})[1]["position"] == 2
            assert player.ask("POST", "/api/sessions", {"ticket": body["ticket"]})[1]["position"] == 1
        end = time.monotonic() + 60
        while (status := player.ask("POST", "/api/sessions", {"ticket": body["ticket"]})[0]) == 503:
            assert time.monotonic() < end, "the idle session never freed its slot"
            time.sleep(0.1)
        assert status == 201


def test_an_idle_stream_asks_whether_anybody_is_there_and_ends_without_an_answer():
    with served_player(timeouts=Timeouts(idle_s=1.0, answer_s=1.0)) as player:
        session = player.begin()
        with player.listen(session) as listening:
            listening.message("idle")
            listening.socket.send('{"type":"stay"}')
            listening.message("idle")
            assert "nobody answered" in listening.message("gone")["why"]
        with connect(stream_address(player, session), proxy=None) as socket:
            assert "no such session" in json.loads(socket.recv(timeout=60))["why"]


def test_a_listener_who_comes_back_continues_live(player: Player):
    session = player.begin()
    with player.listen(session) as staying:
        staying.credit(1)
        staying.segment()
        with player.listen(session) as leaving:
            leaving.credit(1)
            leaving.segment()
        for index in range(1, 4):
            staying.credit(1, index * SEGMENT)
            staying.segment()
        with player.listen(session) as back:
            assert back.hello["live_index"] == 3
            back.credit(2)
            announced, _, _ = back.segment()
            assert (announced["index"], announced["discontinuity"]) == (3, True)
            assert back.segment()[0]["discontinuity"] is False


def _melody(tmp_path: Path) -> bytes:
    write_melody(tmp_path / "mine.wav", 2.0)
    return (tmp_path / "mine.wav").read_bytes()


def _upload(player: Player, data: bytes, name: str) -> tuple[int, Any, dict[str, str]]:
    edge = "x1x2x3"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    body = head + data + f"\r\n--{edge}--\r\n".encode()
    return player.ask("POST", "/api/uploads", body, content_type=f"multipart/form-data; boundary={edge}")
