"""The live player against foreign pages, clients that break the protocol, and noise."""

import asyncio
import http.client
import json
import socket as sockets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.player import Player, served_player, stream_address
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from benchmarks.play_load import fuzz, listen
from riffusion_train.player.serve import client_token
from riffusion_train.player.settings import Limits
from riffusion_train.runtime.errors import InputError

pytestmark = pytest.mark.real_time

SEGMENT = 32 * 400
MOST_SOCKETS = 5
FUZZ = 10_000


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with served_player(max_streams=100, limits=Limits(sockets_per_address=MOST_SOCKETS, upload_bytes=20_000)) as served:
        yield served


def host_of(player: Player) -> str:
    return player.address.removeprefix("http://")


def closes_with(socket: Any) -> int:
    """Return the code that a socket is closed with, whatever comes before."""
    try:
        while True:
            socket.recv(timeout=60)
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return closed.rcvd.code


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"]
)
def test_pages_of_others_cannot_begin_steer_or_listen(player: Player, origin: str):
    session = player.begin()
    for method, path in (
        ("POST", "/api/sessions"),
        ("PATCH", f"/api/sessions/{session['id']}"),
        ("POST", "/api/clips"),
    ):
        status, body, _ = player.ask(method, path, {}, origin=origin, authorization=f"Bearer {session['token']}")
        assert (status, body["error"]) == (403, "requests from other pages are not accepted")
    with pytest.raises(InvalidStatus) as refused:
        connect(stream_address(player, session), origin=origin, proxy=None)  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


def test_our_own_page_can(player: Player):
    assert player.ask("POST", "/api/sessions", {}, origin=player.address)[0] == 201
    session = player.begin()
    with connect(stream_address(player, session), origin=player.address, proxy=None) as socket:  # type: ignore[arg-type]
        assert json.loads(socket.recv(timeout=60))["type"] == "hello"


def test_a_foreign_name_that_resolves_to_this_machine_gets_nothing(player: Player):
    connection = http.client.HTTPConnection(host_of(player), timeout=60)
    for host, status in (("evil.example", 403), ("127.0.0.1.evil.example:80", 403), ("", 403), ("localhost:80", 200)):
        connection.request("GET", "/healthz", headers={"host": host})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status, host
        connection.close()


def test_a_proxy_s_origin_can_be_named():
    with served_player(warm_up=False, origins=("https://music.example.org",)) as player:
        headers = {"host": "music.example.org", "origin": "https://music.example.org"}
        assert player.ask("POST", "/api/sessions", {}, **headers)[0] == 201
        assert player.ask("POST", "/api/sessions", {}, **{**headers, "origin": "https://other.example.org"})[0] == 403


def test_a_player_for_the_network_answers_to_any_name_but_not_to_other_pages():
    with served_player(warm_up=False, loopback=False) as player:
        headers = {"host": "music.local:8000"}
        assert player.ask("POST", "/api/sessions", {}, **headers, origin="http://music.local:8000")[0] == 201
        assert player.ask("POST", "/api/sessions", {}, **headers, origin="http://other.local:8000")[0] == 403


def test_every_answer_forbids_what_the_page_does_not_need(player: Player):
    for path in ("/", "/api/choices", "/nothing", "/static/../app.py"):
        _, _, headers = player.ask("GET", path)
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/../../config/play.py",
        "/static//etc/passwd",
        "/static/page.html%00.js",
        "/api/sessions/..%2f..%2fmetrics",
    ],
)
def test_no_path_comes_from_the_client(player: Player, path: str):
    assert player.ask("GET", path)[0] == 404


def test_bodies_that_are_too_large_are_refused_before_they_are_read(player: Player):
    status, body, _ = player.ask("POST", "/api/sessions", {"prompt": "x" * 70_000})
    assert status == 413 and "at most 65536" in body["error"]
    status, body, _ = player.ask("POST", "/api/uploads", bytes(30_000), content_type="multipart/form-data; boundary=x")
    assert status == 413 and "are too many" in body["error"]
    connection = http.client.HTTPConnection(host_of(player), timeout=60)
    connection.request(
        "POST", "/api/sessions", iter([b"{}"]), {"content-type": "application/json"}, encode_chunked=True
    )
    assert connection.getresponse().status == 411


def test_an_upload_that_is_far_too_large_gets_its_answer_though_it_is_still_being_sent(player: Player):
    # Far more than the buffers of the connection: a server that closes at once breaks the client's pipe.
    status, body, _ = player.ask(
        "POST", "/api/uploads", bytes(24 * 2**20), content_type="multipart/form-data; boundary=x"
    )
    assert status == 413 and "are too many" in body["error"]


def test_a_player_with_a_token_serves_only_those_who_know_it():
    with served_player(warm_up=False, loopback=False, token="a-Secret.1") as player:
        assert player.ask("GET", "/healthz")[0] == 200
        for path, headers in (
            ("/", {}), ("/?token=wrong", {}), ("/api/choices", {"cookie": "riffusion_token=wrong"}), ("/metrics", {}),
        ):  # fmt: skip
            status, body, _ = player.ask("GET", path, **headers)
            assert status == 401 and "?token=" in body["error"]
        assert player.ask("POST", "/api/sessions", {})[0] == 401
        assert player.ask("GET", "/metrics?token=a-Secret.1")[0] == 200
        connection = http.client.HTTPConnection(host_of(player), timeout=60)
        connection.request("GET", "/?x=1&token=a-Secret.1")
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.headers["location"]) == (303, "/?x=1")
        cookie, *rules = (answer.headers["set-cookie"] or "").split("; ")
        assert {"HttpOnly", "SameSite=Strict"} <= set(rules)
        assert player.ask("GET", "/", cookie=cookie)[0] == 200
        status, session, _ = player.ask("POST", "/api/sessions", {}, x_riffusion_token="a-Secret.1")
        assert status == 201
        with pytest.raises(InvalidStatus):
            connect(stream_address(player, session), proxy=None)
        with connect(stream_address(player, session), additional_headers={"cookie": cookie}, proxy=None) as socket:
            assert json.loads(socket.recv(timeout=60))["type"] == "hello"


def test_a_token_is_made_where_other_machines_are_served():
    assert client_token(None, "127.0.0.1") is None
    assert client_token("", "0.0.0.0") is None
    assert client_token("mine", "127.0.0.1") == "mine"
    made = client_token(None, "0.0.0.0")
    assert made is not None and len(made) >= 16 and made != client_token(None, "0.0.0.0")
    with pytest.raises(InputError, match="token: may contain"):
        client_token("a;b", "0.0.0.0")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body"),
        (b"{", "JSON"),
        (b"[]", "body"),
        (b'"x"', "body"),
        (b'{"prompt": 3}', "prompt: "),
        (b'{"seed": "1"}', "seed: "),
        (b'{"seed": NaN}', "seed: "),
        (b'{"strength": 1e999}', "strength: "),
        (b'{"unknown": 1}', "unknown: "),
        (b'{"before": {"seed": -1}}', "seed: "),
        (b'{"before": {"before": {}}}', "before: "),
        (b"[" * 30_000, ""),
        ('{"prompt": "\u0007"}'.encode(), ""),
        (b'{"prompt": "\xff"}', ""),
    ],
)
def test_every_wrong_body_is_one_line_that_says_what_is_wrong(player: Player, body: bytes, message: str):
    status, answer, _ = player.ask("POST", "/api/sessions", body, content_type="application/json")
    assert status == 400 and message in answer["error"] and "\n" not in answer["error"], answer


def test_an_address_has_only_so_many_sockets(player: Player):
    session = player.begin()
    open_ones = [connect(stream_address(player, session), proxy=None) for _ in range(MOST_SOCKETS)]
    for socket in open_ones:
        socket.recv(timeout=60)
    with pytest.raises(InvalidStatus):
        connect(stream_address(player, session), proxy=None)
    for socket in open_ones:
        socket.close()
    assert eventually(lambda: player.loop.sockets.total() == 0)
    with player.listen(session) as again:
        again.credit(1)
        again.segment()


@pytest.mark.parametrize(
    "message",
    [
        "", "x", "{}", "[]", "null", "3", '{"type":"credit"}', '{"type":"stay","more":1}', "[" * 4000, '{"type":["credit"]}',
        '{"type":"credit","ahead":4,"played_sample":0}', '{"type":"credit","ahead":-1,"played_sample":0}',
        '{"type":"credit","ahead":1,"played_sample":1e999}', '{"type":"credit","ahead":true,"played_sample":0}',
        '{"type":"credit","ahead":1,"played_sample":' + "9" * 3000 + "}", b"RIFS", b"",
    ],
)  # fmt: skip
def test_a_listener_that_breaks_the_protocol_again_and_again_is_disconnected(player: Player, message: str | bytes):
    session = player.begin()
    with player.listen(session) as listening:
        for _ in range(4):
            listening.socket.send(message)
        listening.credit(1)
        assert listening.segment()[0]["index"] == 0  # a slip is forgiven
        listening.socket.send(message)
        assert closes_with(listening.socket) == 1008
    assert eventually(lambda: player.loop.sockets.total() == 0)


def test_a_message_that_is_too_long_ends_the_socket_at_once(player: Player):
    session = player.begin()
    with player.listen(session) as listening:
        listening.socket.send("x" * 5000)
        assert closes_with(listening.socket) == 1009


def test_ten_thousand_odd_messages_neither_crash_it_nor_leave_a_task(player: Player):
    session = player.begin()
    with player.listen(session) as watching:
        watching.credit(1)
        watching.segment()
    tasks = tasks_of(player)
    before = player.loop.messages
    asyncio.run(fuzz(stream_address(player, session), lambda: player.loop.messages - before >= FUZZ))
    assert player.loop.malformed > 100
    assert eventually(lambda: player.loop.sockets.total() == 0)
    assert eventually(lambda: tasks_of(player) <= tasks)
    with player.listen(player.begin()) as listening:
        for index in range(3):
            listening.credit(1, index * SEGMENT)
            assert listening.segment()[0]["index"] == index


def test_many_listeners_of_one_stream_get_every_segment_in_order():
    with served_player() as player:
        session = player.begin(num_inference_steps=1)

        async def crowd() -> list[Any]:
            return list(
                await asyncio.gather(*(listen(stream_address(player, session), 60, max_segments=5) for _ in range(50)))
            )

        heard = asyncio.run(crowd())
        assert all(one.is_complete for one in heard)
        assert min(len(one.indices) for one in heard) >= 5
        assert player.loop.segments_made < 50  # one generation for all of them


def test_clients_that_vanish_in_the_middle_leave_nothing_behind(player: Player):
    session = player.begin()
    tasks = tasks_of(player)
    for index in range(20):
        raw = sockets.create_connection(host_of(player).split(":"))
        raw.sendall(
            f"GET /api/sessions/{session['id']}/stream HTTP/1.1\r\nHost: {host_of(player)}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        if index % 2:
            raw.recv(200)
            raw.sendall(b"\x81\xfe\x10")  # half a frame
        raw.close()
        assert eventually(lambda: player.loop.sockets.total() < MOST_SOCKETS)
    assert eventually(lambda: player.loop.sockets.total() == 0 and tasks_of(player) <= tasks)


def test_too_many_clip_requests_are_refused_for_now():
    with served_player(limits=Limits(clip_requests=1)) as player:

        async def crowd() -> list[int]:
            ask = {"prompt": "x", "num_inference_steps": 40}
            return [answer[0] for answer in await asyncio.gather(
                *(asyncio.to_thread(player.ask, "POST", "/api/clips", ask) for _ in range(6))
            )]  # fmt: skip

        answers = asyncio.run(crowd())
        assert set(answers) == {200, 503}


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 60
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def tasks_of(player: Player) -> int:
    return len(asyncio.all_tasks(player.loop.event_loop))
