"""Serve the application on a port until it is asked to stop."""

import contextlib
import errno
import re
import secrets
import signal
import socket
from collections.abc import Iterator

import uvicorn

from riffusion_train.player.security import TOKEN_KEY, Application
from riffusion_train.player.settings import Limits
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.progress import StopRequest

_GRACE_S = 3
_BACKLOG = 128


class Server(uvicorn.Server):
    """A server that ends without a traceback at Ctrl-C or SIGTERM; a second Ctrl-C ends it at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals while it serves, instead of uvicorn, which raises them again at the end."""
        with StopRequest(self._stop):
            yield

    def _stop(self, number: int) -> None:
        self.force_exit = self.should_exit and number == signal.SIGINT
        self.should_exit = True


def make_server(application: Application, limits: Limits) -> Server:
    """Return a server of the application; run it with a socket that listens."""
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


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; opened first, so that no model is loaded for a port that is taken.

    Raises:
        InputError: If the host is not an address of this machine, or the port cannot be used.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port={port}: must be from 0 to 65535; 0 takes any free port")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError, UnicodeError):
        raise InputError(f"host={host}: is not an address of this machine; try host=127.0.0.1") from None
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(_BACKLOG)
    except PermissionError:
        listening.close()
        raise InputError(f"port={port}: needs more rights than you have; choose a port from 1024 up") from None
    except OSError as error:
        listening.close()
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise InputError(
            f"port={port} on {host} {reason}; choose another with port=…, or port=0 for any free one"
        ) from None
    return listening


def client_token(token: str | None, host: str) -> str | None:
    """Return the token that clients must know: the given one, or for None a random one if other machines are served.

    Raises:
        InputError: If it contains characters that an address or a cookie cannot.
    """
    if token is None:
        return None if is_loopback(host) else secrets.token_urlsafe(12)
    if not re.fullmatch(r"[A-Za-z0-9_.~-]*", token):
        raise InputError("token: may contain letters, digits, and any of - _ . ~ only")
    return token or None


def page_address(host: str, listening: socket.socket, token: str | None = None) -> str:
    """Return the address of the page, for a browser on this machine."""
    shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    query = "" if token is None else f"?{TOKEN_KEY}={token}"
    return f"http://{shown}:{listening.getsockname()[1]}/{query}"


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    return host == "localhost" or host == "::1" or host.startswith("127.")
