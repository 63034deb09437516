"""Sessions: begin one, steer it, listen to it, and take what was played home."""

import asyncio
from typing import Any

import numpy as np
from fastapi import APIRouter, Query, Request, WebSocket
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from riffusion_train.player.oneshot import MIME_TYPES, encode_audio
from riffusion_train.player.routes_pages import studio_of
from riffusion_train.player.schemas import Change, ChangeAnswer, ErrorAnswer, FullAnswer, NewSession, SessionAnswer
from riffusion_train.player.segments import Segment, encode_png, picture_between, samples_between
from riffusion_train.player.session import Session
from riffusion_train.player.stream import serve_socket
from riffusion_train.runtime.errors import InputError

router = APIRouter(prefix="/api/sessions", tags=["sessions"])

_NAMED = ("remove", "next", "prompt")
_MOMENT = ("prompt_to", "alpha", "before")


@router.post("", status_code=201, response_model=SessionAnswer, responses={503: {"model": FullAnswer}})
async def begin(request: Request, body: NewSession) -> dict[str, Any]:
    """Begin a session; what is not said has the default that `/api/choices` names."""
    studio = studio_of(request)
    data = body.given()
    ticket = data.pop("ticket", None)
    settings = studio.reader.changed(request.app.state.defaults, data)
    session = studio.open(settings, ticket)
    return {
        "id": session.id,
        "token": session.token,
        "settings": session.path.settings.public(),
        "queue": session.queue(),
    }


@router.patch("/{id}", response_model=ChangeAnswer, responses={403: {"model": ErrorAnswer}})
async def change(request: Request, id: str, body: Change) -> dict[str, Any]:
    """Change a session; needs its token as `Authorization: Bearer TOKEN`."""
    studio, session = studio_of(request), _session(request, id)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not session.authorised(token.strip()):
        raise HTTPException(403, "only who began this session can steer it; begin one of your own")
    data = body.given()
    if any(key in data for key in _MOMENT):
        raise InputError(f"{', '.join(_MOMENT)}: are for new sessions only")
    named = {key: data.pop(key) for key in _NAMED if data.get(key) is not None}
    settings = studio.reader.changed(session.path.settings, {key: data[key] for key in data if key not in _NAMED})
    prompt = studio.reader.prompt("prompt", named["prompt"]) if "prompt" in named else None
    if "remove" in named:
        session.path.remove(named["remove"])
    if "next" in named:
        session.path.put_first(named["next"])
    if prompt is not None:
        session.path.queue(prompt)
    session.path.change(settings)
    session.sign_of_life()
    session.tell_queue()
    studio.wake()
    return {
        "settings": session.path.settings.public(),
        "queue": session.queue(),
        "takes_effect_at": session.path.next_effect,
    }


@router.get("/{id}", responses={404: {"model": ErrorAnswer}})
async def state(request: Request, id: str) -> dict[str, Any]:
    """Return how a session stands."""
    session = _session(request, id)
    return {
        "settings": session.path.settings.public(),
        "queue": session.queue(),
        "listeners": len(session.listeners),
        "first_segment": session.ring.first_index,
        "next_segment": session.ring.next_index,
        "playing_segment": session.playing_index,
    }


@router.get("/{id}/segments/{name}", responses={404: {"model": ErrorAnswer}})
async def segment(request: Request, id: str, name: str) -> Response:
    """Return one segment: `INDEX.png`, `INDEX.wav` or `INDEX.json`."""
    session = _session(request, id)
    number, _, kind = name.partition(".")
    found = session.ring.get(int(number)) if number.isdecimal() and len(number) < 12 else None
    if found is None or kind not in ("png", "wav", "json"):
        raise HTTPException(404, "there is no such segment (any more)")
    if kind == "json":
        return Response(found.announcement(discontinuity=False), media_type="application/json")
    if kind == "png":
        return Response(found.png, media_type="image/png")
    audio = await _audio(request, [found], found.start_sample, found.end_sample, "wav")
    return Response(audio, media_type=MIME_TYPES["wav"])


@router.get("/{id}/recording.{kind}", responses={404: {"model": ErrorAnswer}})
async def recording(
    request: Request,
    id: str,
    kind: str,
    last_s: float = Query(60.0, gt=0, le=3600, description="Seconds; exactly so many, or as many as were played."),
    to_sample: int | None = Query(None, ge=0, description="Where it ends; what is heard now where it is left out."),
) -> Response:
    """Return the last seconds of what was played, as `wav`, `mp3`, `flac`, `ogg`, `opus` or `png`."""
    session = _session(request, id)
    if kind != "png" and kind not in MIME_TYPES:
        raise HTTPException(404, f"recording.{kind[:10]}: choose from: png, {', '.join(MIME_TYPES)}")
    config = studio_of(request).maker.sampler.codec.config
    stop = min(session.played_sample if to_sample is None else to_sample, session.ring.end_sample)
    start = max(stop - round(last_s * config.rate_hz), session.ring.first_sample)
    if stop <= start:
        raise HTTPException(404, "nothing of that was played; let it play for a moment")
    found = session.ring.between(start, stop)
    disposition = {"content-disposition": f'attachment; filename="riffusion-{start}-{stop}.{kind}"'}
    if kind == "png":
        async with studio_of(request).large:
            picture = await asyncio.to_thread(_picture, found, start, stop, config.hop_length)
        return Response(picture, media_type="image/png", headers=disposition)
    audio = await _audio(request, found, start, stop, kind)
    return Response(audio, media_type=MIME_TYPES[kind], headers=disposition)


@router.websocket("/{id}/stream")
async def listen(socket: WebSocket, id: str) -> None:
    """Listen to a session."""
    studio = socket.app.state.studio
    await serve_socket(socket, studio, studio.sessions.get(id))


def _session(request: Request, id: str) -> Session:
    session = studio_of(request).sessions.get(id)
    if session is None or session.closed is not None:
        raise HTTPException(404, "there is no such session (any more); begin a new one")
    return session


async def _audio(request: Request, found: list[Segment], start: int, stop: int, kind: str) -> bytes:
    studio = studio_of(request)
    rate_hz, channels = studio.maker.sampler.codec.rate_hz, studio.maker.channels

    def encoded() -> bytes:
        return encode_audio(_as_wav(samples_between(found, start, stop, channels)), rate_hz, kind)

    async with studio.large:
        return await asyncio.to_thread(encoded)


def _as_wav(pcm: np.ndarray) -> np.ndarray:
    """Return int16 (samples, channels) as float32 (channels, samples) that is written as the same numbers."""
    return np.ascontiguousarray(pcm.T.astype(np.float32) / 32768)


def _picture(found: list[Segment], start: int, stop: int, hop_length: int) -> bytes:
    return encode_png(picture_between(found, start, stop, hop_length))
