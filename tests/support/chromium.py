"""A headless Chromium for the tests of our pages, and a server for their files."""

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import play_page
from riffusion_train.runtime.errors import InputError

SCREENSHOTS = Path(__file__).parents[2] / "runs" / "screenshots"
"""Where the tests write screenshots of the pages, to look at."""


@contextmanager
def open_chromium() -> Iterator[Any]:
    """Start Chromium; the test is skipped if none is installed."""
    with ExitStack() as stack:
        try:
            browser = stack.enter_context(play_page.open_chromium())
        except InputError as error:
            pytest.skip(str(error))
        yield browser


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback; yields its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
