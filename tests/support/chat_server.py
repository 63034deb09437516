"""A local chat endpoint that takes audio, as OpenAI's does, and answers from a script."""

import base64
import contextlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import soundfile

from benchmarks.local_server import local_server


class ChatServer:
    """What was asked of the server, and what it answers.

    Attributes:
        url: Its address.
        answer: Called with the number of the request, from 0; returns a status and a body, or a text that is the answer.
        requests: The bodies of all requests.
        headers: Their headers.
        most_at_a_time: The most requests that were open at a time.
    """

    def __init__(self) -> None:
        self.url = ""
        self.answer: Callable[[int], str | tuple[int, bytes]] = lambda number: f"caption {number}"
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.retry_after: str | None = None
        self.most_at_a_time = self._open = 0
        self._lock = threading.Lock()

    def handle(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, bytes]:
        """Record a request, and return status and body of its answer."""
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self.headers.append(headers)
            self._open += 1
            self.most_at_a_time = max(self.most_at_a_time, self._open)
        try:
            answer = self.answer(number)
        finally:
            with self._lock:
                self._open -= 1
        if isinstance(answer, tuple):
            return answer
        return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]}).encode()

    def sound(self, number: int) -> tuple[Any, int]:
        """Return samples and rate of the audio in a request."""
        part = self.requests[number]["messages"][0]["content"][1]
        assert part["type"] == "input_audio" and part["input_audio"]["format"] == "wav"
        return soundfile.read(io.BytesIO(base64.b64decode(part["input_audio"]["data"])))


@contextlib.contextmanager
def chat_server() -> Iterator[ChatServer]:
    """Run a server on this machine."""
    chat = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content = chat.handle(body, dict(self.headers))
            self.send_response(status)
            if chat.retry_after is not None:
                self.send_header("Retry-After", chat.retry_after)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with local_server(Handler) as address:
        chat.url = f"{address}/v1"
        yield chat
