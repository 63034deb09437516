"""Clients of the live player by the dozen: listeners that play in real time, and one that sends what nobody should."""

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
class Heard:
    """What one listener got.

    Attributes:
        indices: The segments in the order they came.
        samples: Samples in all.
        late_s: How long it had nothing to play, in all.
    """

    indices: list[int] = dataclasses.field(default_factory=list)
    samples: int = 0
    late_s: float = 0.0

    @property
    def in_order(self) -> bool:
        """Whether every segment came, one after the other, none twice."""
        first = self.indices[0] if self.indices else 0
        return bool(self.indices) and self.indices == list(range(first, first + len(self.indices)))


async def listen(address: str, seconds: float, most: int = 10**9) -> Heard:
    """Listen to a stream in real time, for so long or so many segments: want up to three ahead of what is heard."""
    heard = Heard()
    async with connect(address, max_size=None, proxy=None) as socket:
        hello = json.loads(await socket.recv())
        rate_hz, length = hello["rate_hz"], hello["segment_samples"]
        began = time.monotonic()
        played_from_s: float | None = None
        while time.monotonic() - began < seconds and len(heard.indices) < most:
            now = time.monotonic()
            played = 0 if played_from_s is None else min(round((now - played_from_s) * rate_hz), heard.samples)
            ahead = min(max(3 - (heard.samples - played) // length, 0), 3)
            first = heard.indices[0] if heard.indices else hello["live_index"]
            await socket.send(json.dumps({"type": "credit", "ahead": ahead, "played_sample": first * length + played}))
            await _take(socket, heard, 0.25)
            if heard.samples and played_from_s is None:
                played_from_s = time.monotonic()
            if played_from_s is not None:
                late_s = time.monotonic() - played_from_s - heard.samples / rate_hz
                if late_s > 0:
                    heard.late_s += late_s
                    played_from_s += late_s
    return heard


async def _take(socket: ClientConnection, heard: Heard, seconds: float) -> None:
    """Take what comes within a time."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(socket.recv(), left)
        except TimeoutError:
            return
        if isinstance(message, bytes):
            _, index, pcm_bytes, _ = struct.unpack_from("<4sIII", message)
            heard.indices.append(index)
            heard.samples += pcm_bytes // 2


async def fuzz(address: str, enough: Callable[[], bool], *, seed: int = 0) -> None:
    """Send odd messages, in an odd order, until it is enough; connect again whenever the server has had enough."""
    rng = random.Random(seed)
    while not enough():
        async with connect(address, max_size=None, proxy=None) as socket:
            try:
                for _ in range(rng.randrange(1, 400)):
                    await socket.send(odd_message(rng))
                if rng.random() < 0.5:
                    await asyncio.wait_for(socket.recv(), 1)
            except (ConnectionClosed, TimeoutError):
                pass
            if rng.random() < 0.2:
                socket.transport.abort()


def odd_message(rng: random.Random) -> str | bytes:
    """Return a credit of any kind, mostly well formed and out of order; sometimes something that is no message at all."""
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
