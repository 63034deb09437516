"""A listener's socket: segments and words out, credit and signs of life in; every message is checked."""

import asyncio
import contextlib
import json
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from riffusion_train.player.loop import GenerationLoop
from riffusion_train.player.session import LOOKAHEAD_SEGMENTS, Listener, Session

_MOST_MALFORMED = 5
_POLICY = 1008
_GONE = 1000
_BUSY = 1013


class MalformedError(Exception):
    """A message that nobody would send who keeps to the rules."""


def parse_message(text: str) -> tuple[str, int, int]:
    """Return the kind of a message, and of a credit the segments wanted and the sample that was heard last.

    Raises:
        MalformedError: If it is anything but the two messages that there are.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedError from None
    if not isinstance(message, dict):
        raise MalformedError
    if message == {"type": "stay"}:
        return "stay", 0, 0
    if set(message) != {"type", "ahead", "played_sample"} or message["type"] != "credit":
        raise MalformedError
    ahead, played = message["ahead"], message["played_sample"]
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (ahead, played))
    if not whole or not 0 <= ahead <= LOOKAHEAD_SEGMENTS or not 0 <= played < 2**53:
        raise MalformedError
    return "credit", ahead, played


async def serve_socket(socket: WebSocket, studio: GenerationLoop, session: Session | None) -> None:
    """Serve one listener until one of the two ends leaves."""
    address = socket.client.host if socket.client else ""
    if studio.sockets[address] >= studio.limits.sockets_per_address:
        await socket.close(_BUSY, "too many sockets of one address")
        return
    await socket.accept()
    if session is None or session.closed is not None:
        await socket.send_text(json.dumps({"type": "gone", "why": "there is no such session (any more)"}))
        await socket.close(_GONE)
        return
    studio.sockets[address] += 1
    listener = session.join()
    try:
        await socket.send_text(json.dumps(_hello(studio, session, listener), ensure_ascii=False))
        await _first_to_end(_send(socket, studio, session, listener), _receive(socket, studio, session, listener))
    except (WebSocketDisconnect, RuntimeError):
        pass  # it has gone while something was being sent
    finally:
        session.leave(listener)
        studio.sockets[address] -= 1
        if not studio.sockets[address]:
            del studio.sockets[address]


async def _first_to_end(*works: Any) -> None:
    """Run works side by side until one ends; end the others too, and leave no task behind."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _send(socket: WebSocket, studio: GenerationLoop, session: Session, listener: Listener) -> None:
    """Send what there is for a listener whenever there is something."""
    while True:
        while listener.outbox:
            message = listener.outbox.pop(0)
            await socket.send_text(json.dumps(message, ensure_ascii=False))
            if message["type"] == "gone":
                await socket.close(_GONE)
                return
        segment = session.next_for(listener)
        if segment is not None:
            discontinuity, listener.discontinuity = listener.discontinuity, False
            await socket.send_text(segment.announcement(discontinuity=discontinuity))
            await socket.send_bytes(segment.frame())
            continue
        studio.wake()
        await listener.wake.wait()
        listener.wake.clear()


async def _receive(socket: WebSocket, studio: GenerationLoop, session: Session, listener: Listener) -> None:
    """Take what a listener says; one that does not keep to the rules is sent away."""
    malformed = 0
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        studio.messages += 1
        try:
            text = message.get("text")
            if text is None or len(text) > studio.limits.message_bytes:
                raise MalformedError
            kind, ahead, played_sample = parse_message(text)
        except MalformedError:
            malformed += 1
            studio.malformed += 1
            if malformed >= _MOST_MALFORMED:
                await socket.close(_POLICY, "messages that cannot be understood")
                return
            continue
        if kind == "stay":
            session.sign_of_life()
        else:
            session.take_credit(listener, ahead, played_sample)
        studio.wake()


def _hello(studio: GenerationLoop, session: Session, listener: Listener) -> dict[str, Any]:
    config = studio.maker.sampler.codec.config
    return {
        "type": "hello",
        "rate_hz": config.rate_hz,
        "channels": studio.maker.channels,
        "segment_samples": session.segment_samples,
        "columns": config.width_px,
        "n_mels": config.n_mels,
        "settings": session.path.settings.public(),
        "queue": session.queue(),
        "live_index": listener.pointer,
    }
