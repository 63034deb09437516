"""What protects the application: whose requests are accepted, how large they may be, and how uploads are read."""

import asyncio
import contextlib
import hmac
import io
import json
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np
import soundfile

from riffusion_train.audio.read import resample
from riffusion_train.player.settings import Limits
from riffusion_train.runtime.errors import InputError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

UPLOADS_PATH = "/api/uploads"
TOKEN_KEY = "token"
"""The key of a request's query that carries the player's token."""
_TOKEN_COOKIE = "riffusion_token"
_TOKEN_HEADER = "x-riffusion-token"
_HEALTH_PATH = "/healthz"

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
"""What the multipart envelope of an upload takes in addition to the file."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_MAX_DRAINED_BYTES = 1 << 30
_MAX_DRAINED_S = 30.0
_UPLOAD_KINDS = "WAV, FLAC, MP3, Ogg, Opus, AIFF, M4A, WebM or AAC"
_MAX_SAMPLES = 1 << 25
"""Of all channels together: a small file of silence can hold hours of many channels."""
_AV_RATE_HZ = 44100


class Guard:
    """Refuses requests from pages of other origins and too large ones; gives every answer its security headers.

    A page of another origin cannot read what a server on this machine answers, but it could steer it. So a request that
    changes something, and every WebSocket, must come from our own page or from no page (no `Origin`). On a loopback address
    the requested host must be a name of this machine, so that a foreign name that resolves to 127.0.0.1 (DNS rebinding) is
    refused.

    Args:
        application: The ASGI application that is protected.
        limits: How much is accepted.
        loopback: Whether only this machine is served.
        origins: Further origins that are ours, such as `https://music.example.org` before a proxy.
        token: What every request but `/healthz` must carry: as the cookie that the page's address with `?token=` sets, as
            that key of any other address, or in the header `X-Riffusion-Token`. None asks for none.
    """

    def __init__(
        self,
        application: Application,
        *,
        limits: Limits,
        loopback: bool = True,
        origins: tuple[str, ...] = (),
        token: str | None = None,
    ) -> None:
        self.application = application
        self._limits = limits
        self._loopback = loopback
        self._token = token
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
        protected = _with_headers(send)
        if refusal is not None:
            await _refuse(receive, protected, *refusal)
            return
        if self._token is not None and scope["path"] == "/" and TOKEN_KEY in _query(scope):
            await _remember_token(protected, scope, self._token)
            return
        await self.application(scope, receive, protected)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Return status and reason of a refusal; None for a request that is accepted."""
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        ours = {urlsplit(origin).netloc for origin in self._origins}
        if self._loopback and name.lower() not in _LOOPBACK and host.lower() not in ours:
            return 403, "this player serves 127.0.0.1 only; start it with host=0.0.0.0 or name its origin with origins="
        if not self._has_token(scope, headers):
            return (
                401,
                "this player needs its token: open the address with ?token=… that it printed when it was started",
            )
        safe = scope["type"] == "http" and scope["method"] in _SAFE_METHODS
        origin = headers.get("origin")
        if not safe and origin is not None and not self._is_ours(origin.lower(), host.lower()):
            return 403, "requests from other pages are not accepted"
        if safe or scope["type"] == "websocket":
            return None
        return self._too_large(scope["path"], headers)

    def _is_ours(self, origin: str, host: str) -> bool:
        return origin in self._origins or (bool(host) and urlsplit(origin).netloc == host)

    def _has_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        if self._token is None or scope["path"] == _HEALTH_PATH:
            return True
        offered = [headers.get(_TOKEN_HEADER, ""), _query(scope).get(TOKEN_KEY, "")]
        with contextlib.suppress(CookieError):
            cookie = SimpleCookie(headers.get("cookie", "")).get(_TOKEN_COOKIE)
            offered.append("" if cookie is None else cookie.value)
        return any(hmac.compare_digest(one.encode(), self._token.encode()) for one in offered)

    def _too_large(self, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        length = headers.get("content-length", "")
        max_bytes = self._limits.body_bytes
        if path == UPLOADS_PATH:
            max_bytes = self._limits.upload_bytes + _MULTIPART_BYTES
        if not length.isdecimal():
            has_body = "transfer-encoding" in headers
            return (411, "send the body with its Content-Length") if has_body else None
        if int(length) > max_bytes:
            return 413, f"{int(length)} bytes are too many; at most {max_bytes}"
        return None


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message.get("headers", [])}
            added = [(name.encode(), value.encode()) for name, value in _HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return send_with_headers


def _query(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))


async def _remember_token(send: Send, scope: Scope, token: str) -> None:
    """Set the cookie that carries the token, and lead to the same page without it in its address."""
    rest = urlencode({key: value for key, value in _query(scope).items() if key != TOKEN_KEY})
    cookie = f"{_TOKEN_COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"
    headers = [(b"location", f"/?{rest}".rstrip("?").encode()), (b"set-cookie", cookie.encode())]
    headers += [(b"content-length", b"0"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(receive: Receive, send: Send, status: int, reason: str) -> None:
    """Answer, and only then close: a client that is still sending its body would see a broken pipe and no answer."""
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_MAX_DRAINED_S):
            await _drain(receive)
    await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    """Read and drop a request's body, up to a limit."""
    drained_bytes, more = 0, True
    while more and drained_bytes <= _MAX_DRAINED_BYTES:
        message = await receive()
        drained_bytes += len(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)


def read_upload(data: bytes, rate_hz: int, channels: int, max_s: float) -> np.ndarray:
    """Return the first seconds of an audio file, float32 (channels, samples).

    The reader is chosen by the first bytes, not by the name, and none is used that could open another file, such as a
    playlist's.

    Args:
        data: The file.
        rate_hz: The sample rate of the result.
        channels: One or two.
        max_s: Seconds that are read.

    Raises:
        InputError: If it is not audio that can be read, or silent.
    """
    kind = _kind(data)
    if kind is None:
        raise InputError(f"file: is not audio that can be read; send {_UPLOAD_KINDS}")
    try:
        wav, from_hz = _by_soundfile(data, max_s) if kind == "soundfile" else _by_av(data, kind, max_s)
    except (soundfile.SoundFileError, RuntimeError, MemoryError, ValueError, OSError) as error:
        raise InputError(f"file: is damaged or not audio ({type(error).__name__}); send {_UPLOAD_KINDS}") from None
    if wav.size == 0 or not np.isfinite(wav).all() or not np.any(wav):
        raise InputError("file: contains no sound; send one that is not silent")
    if not 1000 <= from_hz <= 768_000:
        raise InputError(f"file: a sample rate of {from_hz} Hz cannot be right; export it again")
    wav = resample(wav, from_hz, rate_hz)
    if channels == 1:
        return wav.mean(axis=0, keepdims=True)
    return np.repeat(wav, 2, axis=0) if len(wav) == 1 else wav[:2]


def _kind(data: bytes) -> str | None:
    """Return what reads a file: `soundfile`, or the name of one of FFmpeg's demuxers; None for a file that is refused."""
    head = data[:12]
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"FORM") or head[:3] == b"ID3":
        return "soundfile"
    if head[4:8] == b"ftyp":
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    return "soundfile" if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 else None


def _by_soundfile(data: bytes, max_s: float) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        count = min(int(max_s * file.samplerate), _MAX_SAMPLES // max(file.channels, 1))
        frames = file.read(count, dtype="float32", always_2d=True)
        return np.ascontiguousarray(frames[:, :2].T), int(file.samplerate)


def _by_av(data: bytes, kind: str, max_s: float) -> tuple[np.ndarray, int]:
    import av

    blocks: list[np.ndarray] = []
    with av.open(io.BytesIO(data), format=kind) as container:
        if not container.streams.audio:
            raise ValueError("contains no audio")
        resampler = av.AudioResampler("fltp", "stereo", _AV_RATE_HZ)
        samples = 0
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                blocks.append(part.to_ndarray())
                samples += part.samples
            if samples >= max_s * _AV_RATE_HZ:
                break
    if not blocks:
        raise ValueError("contains no audio samples")
    return np.concatenate(blocks, axis=1)[:, : int(max_s * _AV_RATE_HZ)], _AV_RATE_HZ
