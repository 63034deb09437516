"""Stores on this machine: a web server that answers range requests, after a delay where asked, and an S3 server."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from benchmarks.local_server import local_server


class WebServer:
    """Serves the files of a folder.

    Attributes:
        address: Without a slash at its end.
        requests: The path and range of each request for a shard, in order.
        latency_s: How long each answer waits.
        ranges: Whether range requests are answered with a part, as they should be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""
        self.requests: list[str] = []
        self.latency_s = 0.0
        self.ranges = True
        self.lock = threading.Lock()

    def part_of(self, path: str, asked: str | None) -> tuple[int, bytes, str]:
        """Return the status, the content and the range of an answer."""
        file = self.folder / path.lstrip("/")
        if not file.is_file():
            return 404, b"", ""
        content = file.read_bytes()
        if path.endswith(".parquet"):
            with self.lock:
                self.requests.append(f"{path} {asked}")
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "") if self.ranges else None
        if match is None:
            return 200, content, ""
        first, last = int(match[1]), min(int(match[2]), len(content) - 1)
        return 206, content[first : last + 1], f"bytes {first}-{last}/{len(content)}"


@contextlib.contextmanager
def web_server(folder: Path, latency_s: float = 0.0) -> Iterator[WebServer]:
    """Serve a folder on a free local port."""
    server = WebServer(folder)
    server.latency_s = latency_s

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(server.latency_s)
            status, content, part = server.part_of(self.path.partition("?")[0], self.headers.get("Range"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if part:
                self.send_header("Content-Range", part)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with local_server(Handler) as server.address:
        yield server


@contextlib.contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve S3 on a free local port, to which `s3://` leads with the credentials of the environment."""
    import logging

    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        patch.setenv(key, value)
    try:
        yield
    finally:
        server.stop()


def second_s3_server(address: str) -> Any:
    """Start another server, on another address of this machine, with the same buckets; return it, to be stopped."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address=address, port=5000, verbose=False)
    server.start()
    return server
