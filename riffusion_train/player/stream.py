"""A listener's WebSocket: segments and messages out, credit and signs of life in; every message is checked."""

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from riffusion_train.audio.marking import SOURCE_TYPE
from riffusion_train.player.loop import GenerationLoop
from riffusion_train.player.session import LOOKAHEAD_SEGMENTS, Listener, Session

_MAX_MALFORMED = 5
_CLOSE_GONE = 1000
_CLOSE_POLICY = 1008
_CLOSE_BUSY = 1013


class MalformedError(Exception):
    """A message that is not one of the two that the protocol has."""


async def serve_socket(socket: WebSocket, loop: GenerationLoop, session: Session | None) -> None:
    """Serve one listener until it leaves or the session ends."""
    address = socket.client.host if socket.client else ""
    if loop.sockets[address] >= loop.limits.sockets_per_address:
        await socket.close(_CLOSE_BUSY, "too many sockets from one address")
        return
    await socket.accept()
    if session is None or session.closed is not None:
        await socket.send_text(json.dumps({"type": "gone", "why": "there is no such session (any more)"}))
        await socket.close(_CLOSE_GONE)
        return
    with loop.count_socket(address):
        listener = session.add_listener()
        try:
            await socket.send_text(json.dumps(_hello(loop, session, listener), ensure_ascii=False))
            await _until_one_ends(_send(socket, loop, session, listener), _receive(socket, loop, session, listener))
        except (WebSocketDisconnect, RuntimeError):
            pass  # it left while something was being sent
        finally:
            session.remove_listener(listener)


def parse_message(text: str) -> tuple[str, int, int, bool]:
    """Return the type of a message, and for a credit the segments asked for, the sample played last, and whether it is paused.

    Raises:
        MalformedError: If it is anything but the two messages that the protocol has.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedError from None
    if not isinstance(message, dict):
        raise MalformedError
    if message == {"type": "stay"}:
        return "stay", 0, 0, False
    if set(message) - {"paused"} != {"type", "ahead", "played_sample"} or message["type"] != "credit":
        raise MalformedError
    ahead, played_sample, paused = message["ahead"], message["played_sample"], message.get("paused", False)
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (ahead, played_sample))
    if (
        not whole
        or not isinstance(paused, bool)
        or not 0 <= ahead <= LOOKAHEAD_SEGMENTS
        or not 0 <= played_sample < 2**53
    ):
        raise MalformedError
    return "credit", ahead, played_sample, paused


def _hello(loop: GenerationLoop, session: Session, listener: Listener) -> dict[str, Any]:
    sampler = loop.maker.sampler
    config = sampler.codec.config
    return {
        "type": "hello",
        "rate_hz": config.rate_hz,
        "channels": loop.maker.channels,
        "segment_samples": session.segment_samples,
        "columns": config.width_px,
        "n_mels": config.n_mels,
        "settings": session.prompts.settings.public(),
        "queue": session.queue(),
        "live_index": listener.next_index,
        "delay_s": session.delay_s,
        "digital_source_type": SOURCE_TYPE,
        "model_fingerprint": loop.maker.mark.model_fingerprint,
        "dataset_fingerprint": loop.maker.mark.dataset_fingerprint,
    }


async def _until_one_ends(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines side by side until one ends; cancel the others, and leave no task behind."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
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


async def _send(socket: WebSocket, loop: GenerationLoop, session: Session, listener: Listener) -> None:
    """Send a listener its messages and segments whenever there are any."""
    while True:
        while messages := listener.take_messages():
            for message in messages:
                await socket.send_text(json.dumps(message, ensure_ascii=False))
                if message["type"] == "gone":
                    await socket.close(_CLOSE_GONE)
                    return
        segment = session.next_for(listener)
        if segment is not None:
            discontinuity = listener.take_discontinuity()
            await socket.send_text(segment.announcement(discontinuity=discontinuity))
            await socket.send_bytes(segment.frame())
            continue
        loop.wake()
        await listener.wake.wait()
        listener.wake.clear()


async def _receive(socket: WebSocket, loop: GenerationLoop, session: Session, listener: Listener) -> None:
    """Take what a listener sends; one that keeps breaking the protocol is disconnected."""
    malformed = 0
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        loop.count_message()
        try:
            text = message.get("text")
            if text is None or len(text) > loop.limits.message_bytes:
                raise MalformedError
            kind, ahead, played_sample, paused = parse_message(text)
        except MalformedError:
            malformed += 1
            loop.count_malformed()
            if malformed >= _MAX_MALFORMED:
                await socket.close(_CLOSE_POLICY, "messages that cannot be understood")
                return
            continue
        if kind == "stay":
            session.note_activity()
        else:
            session.update_credit(listener, ahead, played_sample, paused=paused)
        loop.wake()
