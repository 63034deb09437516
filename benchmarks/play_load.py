"""Clients that load the live player: listeners that play in real time, and one that sends random messages."""

import asyncio
import dataclasses
import json
import random
import struct
import time
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed


@dataclasses.dataclass
class Received:
    """What one listener received.

    Attributes:
        indices: Indices of the segments, in the order in which they came.
        samples: Total number of samples.
        silent_s: Total time in which it had nothing to play.
    """

    indices: list[int] = dataclasses.field(default_factory=list)
    samples: int = 0
    silent_s: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether the segments came in order, with none missing and none twice."""
        first = self.indices[0] if self.indices else 0
        return bool(self.indices) and self.indices == list(range(first, first + len(self.indices)))


async def listen(address: str, seconds: float, max_segments: int = 10**9) -> Received:
    """Play a stream in real time, with up to three segments ahead.

    Args:
        address: WebSocket address of the stream.
        seconds: How long to listen.
        max_segments: Stop earlier, after this many segments.
    """
    received = Received()
    async with connect(address, max_size=None, proxy=None) as socket:
        hello = json.loads(await socket.recv())
        rate_hz, length = hello["rate_hz"], hello["segment_samples"]
        start = time.monotonic()
        played_from_s: float | None = None
        while time.monotonic() - start < seconds and len(received.indices) < max_segments:
            now = time.monotonic()
            played = 0 if played_from_s is None else min(round((now - played_from_s) * rate_hz), received.samples)
            ahead = min(max(3 - (received.samples - played) // length, 0), 3)
            first = received.indices[0] if received.indices else hello["live_index"]
            await socket.send(json.dumps({"type": "credit", "ahead": ahead, "played_sample": first * length + played}))
            await _receive(socket, received, 0.25)
            if received.samples and played_from_s is None:
                played_from_s = time.monotonic()
            if played_from_s is not None:
                late_s = time.monotonic() - played_from_s - received.samples / rate_hz
                if late_s > 0:
                    received.silent_s += late_s
                    played_from_s += late_s
    return received


async def _receive(socket: ClientConnection, received: Received, seconds: float) -> None:
    """Receive what comes within a time."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(socket.recv(), left)
        except TimeoutError:
            return
        if isinstance(message, bytes):
            _, index, pcm_bytes, _ = struct.unpack_from("<4sIII", message)
            received.indices.append(index)
            received.samples += pcm_bytes // 2


async def fuzz(address: str, is_done: Callable[[], bool], *, seed: int = 0) -> None:
    """Send random messages until `is_done()`, and connect again whenever the server closes the connection."""
    rng = random.Random(seed)
    while not is_done():
        async with connect(address, max_size=None, proxy=None) as socket:
            try:
                for _ in range(rng.randrange(1, 400)):
                    await socket.send(random_message(rng))
                if rng.random() < 0.5:
                    await asyncio.wait_for(socket.recv(), 1)
            except (ConnectionClosed, TimeoutError):
                pass
            if rng.random() < 0.2:
                socket.transport.abort()


def random_message(rng: random.Random) -> str | bytes:
    """Return a random credit or stay message, mostly well formed but out of order; in 3 % of cases a malformed one."""
    if rng.random() < 0.97:
        ahead, played = rng.randrange(4), rng.choice([0, 1, 12_800, rng.randrange(2**53), 2**53 - 1])
        return rng.choice(['{"type":"stay"}', json.dumps({"type": "credit", "ahead": ahead, "played_sample": played})])
    wrong = {"type": rng.choice(["credit", "stay", "gone", 1, None]), "ahead": rng.choice([-1, 1.5, "1", [], {}])}
    kinds: list[Any] = [
        rng.randbytes(rng.randrange(200)),
        "".join(map(chr, (rng.randrange(1, 0xD7FF) for _ in range(rng.randrange(300))))),
        json.dumps(wrong),
        "{" * rng.randrange(3000),
        "x" * rng.randrange(4000, 6000),
    ]
    return rng.choice(kinds)
