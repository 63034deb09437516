"""What stands before the application: whose requests are taken, how large they may be, and what a page may do."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from riffusion_train.player.settings import Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

UPLOADS_PATH = "/api/uploads"

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob: data:; worker-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_MULTIPART_BYTES = 4096
"""What the envelope of an upload takes beside the file."""


class Guard:
    """Refuses requests of strangers' pages and too large ones; gives every answer its security headers.

    A page of another origin cannot read what a server on this machine answers, but it could steer it: so whatever changes
    something, and every WebSocket, must come from our own page or from no page at all. On a loopback address the name that
    was asked for must be this machine's, so that a name that turns to 127.0.0.1 (DNS rebinding) gets nothing.

    Args:
        application: What is guarded.
        limits: How much is taken.
        loopback: Whether only this machine is served.
        origins: Further origins that are ours, such as `https://music.example.org` before a proxy.
    """

    def __init__(
        self, application: Application, *, limits: Limits, loopback: bool = True, origins: tuple[str, ...] = ()
    ) -> None:
        self.application = application
        self._limits = limits
        self._loopback = loopback
        self._origins = {origin.rstrip("/").lower() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.application(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if scope["type"] == "websocket":
            if refusal is not None:
                await receive()
                await send({"type": "websocket.close", "code": 1008, "reason": refusal[1]})
                return
            await self.application(scope, receive, send)
            return
        guarded = _with_headers(send)
        if refusal is not None:
            await _refuse(guarded, *refusal)
            return
        await self.application(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Return status and reason where a request is not taken."""
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        ours = {urlsplit(origin).netloc for origin in self._origins}
        if self._loopback and name.lower() not in _LOOPBACK and host.lower() not in ours:
            return 403, "this player serves 127.0.0.1 only; start it with host=0.0.0.0 or name its origin with origins="
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        origin = headers.get("origin")
        if changes and origin is not None and not self._is_ours(origin.lower(), host.lower()):
            return 403, "requests of other pages are not taken"
        if scope["type"] == "websocket" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        return self._too_large(scope["path"], headers)

    def _is_ours(self, origin: str, host: str) -> bool:
        return origin in self._origins or (bool(host) and urlsplit(origin).netloc == host)

    def _too_large(self, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        length = headers.get("content-length", "")
        most = self._limits.body_bytes
        if path == UPLOADS_PATH:
            most = self._limits.upload_bytes + _MULTIPART_BYTES
        if not length.isdecimal():
            has_body = "transfer-encoding" in headers
            return (411, "send the body with its Content-Length") if has_body else None
        if int(length) > most:
            return 413, f"{int(length)} bytes are too many; at most {most}"
        return None


def _with_headers(send: Send) -> Send:
    async def guarded(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message.get("headers", [])}
            added = [(name.encode(), value.encode()) for name, value in _HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return guarded


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
