"""Serve the application on a port until it is asked to stop."""

import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

import uvicorn

from riffusion_train.player.security import Application
from riffusion_train.player.settings import Limits
from riffusion_train.runtime.errors import InputError

_GRACE_S = 3


class Server(uvicorn.Server):
    """A server that ends in peace at Ctrl-C or SIGTERM; a second Ctrl-C ends it at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals while it serves; in another thread than the main one there are none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and number == signal.SIGINT
        self.should_exit = True


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that nothing is loaded for a port that is taken.

    Raises:
        InputError: If it cannot be had.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port={port}: must be from 0 to 65535; 0 takes any that is free")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError, UnicodeError):
        raise InputError(f"host={host}: is no address of this machine; try host=127.0.0.1") from None
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
        found.listen(128)
    except PermissionError:
        found.close()
        raise InputError(f"port={port}: may not be used by you; choose one from 1024 up") from None
    except OSError as error:
        found.close()
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise InputError(f"port={port} on {host} {reason}; choose another with port=…, or port=0 for any") from None
    return found


def make_server(application: Application, limits: Limits) -> Server:
    """Return a server of the application; run it with the socket that listens."""
    config = uvicorn.Config(
        application,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="websockets-sansio",
        ws_max_size=limits.message_bytes,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=_GRACE_S,
        lifespan="on",
    )
    return Server(config)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    return host == "localhost" or host == "::1" or host.startswith("127.")
