"""The live player for tests: the real server in a thread, with the nano model or any other, and a client for it."""

import contextlib
import dataclasses
import json
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.models import nano_components
from websockets.sync.client import ClientConnection, connect

from riffusion_train.player.app import create_app
from riffusion_train.player.serve import make_server, open_socket
from riffusion_train.player.session import Timeouts
from riffusion_train.player.settings import Limits, Settings
from riffusion_train.sampling.sampler import Sampler

SECOND = 16000
"""Samples a second of the nano model, whose segments are 0.8 s."""


@dataclasses.dataclass
class Player:
    """A running player.

    Attributes:
        address: Its address, such as `http://127.0.0.1:40000`, without a slash at the end.
        app: Its FastAPI application.
    """

    address: str
    app: Any

    @property
    def loop(self) -> Any:
        """The generation loop; it belongs to another thread, so only look at it."""
        return self.app.state.loop

    def ask(self, method: str, path: str, data: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Return status, body (decoded where it is JSON) and headers of a request."""
        body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        kind = {"content-type": "application/json"} if body is not None else {}
        request = urllib.request.Request(self.address + path, body, kind | given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, _decoded(answer), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, _decoded(error), dict(error.headers)

    def begin(self, **settings: Any) -> dict[str, Any]:
        """Begin a session."""
        status, body, _ = self.ask("POST", "/api/sessions", settings)
        assert status == 201, body
        return body

    def change(self, session: dict[str, Any], **changes: Any) -> dict[str, Any]:
        """Change a session as its owner."""
        bearer = f"Bearer {session['token']}"
        status, body, _ = self.ask("PATCH", f"/api/sessions/{session['id']}", changes, authorization=bearer)
        assert status == 200, body
        return body

    @contextlib.contextmanager
    def listen(self, session: dict[str, Any]) -> Iterator["Listening"]:
        """Connect to the stream of a session."""
        with connect(stream_address(self, session), max_size=None, proxy=None) as socket:
            yield Listening(socket)


def stream_address(player: Player, session: dict[str, Any]) -> str:
    """Return the address of a session's stream."""
    return f"{player.address.replace('http', 'ws', 1)}/api/sessions/{session['id']}/stream"


class Listening:
    """A listener's end of a socket.

    Args:
        socket: The socket.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []
        self.hello = self.message("hello")

    def credit(self, ahead: int, played_sample: int = 0, **paused: bool) -> None:
        """Ask for so many segments; `paused=True` where nothing plays."""
        self.socket.send(json.dumps({"type": "credit", "ahead": ahead, "played_sample": played_sample, **paused}))

    def message(self, kind: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """Return the next text message of a type."""
        end = time.monotonic() + timeout_s
        while True:
            text = self.socket.recv(timeout=max(end - time.monotonic(), 0.01))
            assert isinstance(text, str), "a segment came instead of a text message"
            self.messages.append(json.loads(text))
            if self.messages[-1]["type"] == kind:
                return self.messages[-1]

    def segment(self) -> tuple[dict[str, Any], bytes, bytes]:
        """Return the next segment: its announcement, audio and image."""
        announced = self.message("segment")
        frame = self.socket.recv(timeout=60)
        assert isinstance(frame, bytes)
        magic, index, pcm_bytes, png_bytes = struct.unpack_from("<4sIII", frame)
        assert (magic, index, 16 + pcm_bytes + png_bytes) == (b"RIFS", announced["index"], len(frame))
        return announced, frame[16 : 16 + pcm_bytes], frame[16 + pcm_bytes :]


@contextlib.contextmanager
def served_player(
    model: Path | None = None,
    *,
    num_inference_steps: int = 2,
    quality: str = "normal",
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    **options: Any,
) -> Iterator[Player]:
    """Run a player in a thread; a process would outlive a test that is killed.

    Args:
        model: A model's folder; the nano model where it is not announced.
        num_inference_steps: Denoising steps that sessions begin with.
        quality: How long to search for the phase; "draft" where a busy machine must play in time.
        limits: How much clients may send and ask for.
        timeouts: How long streams are kept.
        options: As of `create_app`.
    """
    if model is None:
        sampler = Sampler(
            nano_components(), num_inference_steps=num_inference_steps, guidance_scale=1.0, quality=quality
        )
    else:
        sampler = Sampler.load(model, device="cpu", num_inference_steps=num_inference_steps, quality=quality)
    begin = Settings(prompt="a band", guidance_scale=sampler.guidance_scale, num_inference_steps=num_inference_steps)
    application = create_app(sampler, limits=limits, timeouts=timeouts, defaults=begin, **options)
    with open_socket("127.0.0.1", 0) as socket:
        server = make_server(application, limits or Limits())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            yield Player(f"http://127.0.0.1:{socket.getsockname()[1]}", application.application)
        finally:
            server.should_exit = True
            thread.join(timeout=60)
            assert not thread.is_alive(), "the server did not end"


def _decoded(answer: Any) -> Any:
    body = answer.read()
    return json.loads(body) if answer.headers.get("content-type", "").startswith("application/json") else body
