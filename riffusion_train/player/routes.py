"""The player's interface: the page, sessions, single clips, uploads, and the original Riffusion server's one route."""

import asyncio
import functools
import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Query, Request, UploadFile, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.player.loop import GenerationLoop
from riffusion_train.player.oneshot import (
    MIME_TYPES,
    clip_request,
    encode_audio,
    make_clip,
    original_request,
    run_original,
)
from riffusion_train.player.prompts import BUILDER, DICE, SEED_IMAGE_WORDS
from riffusion_train.player.security import read_upload
from riffusion_train.player.segments import Segment, encode_png, picture_between, samples_between
from riffusion_train.player.session import Session
from riffusion_train.player.settings import (
    Change,
    ChangeAnswer,
    ClipAnswer,
    ClipBody,
    ErrorAnswer,
    FullAnswer,
    NewSession,
    OriginalAnswer,
    OriginalBody,
    SessionAnswer,
    UploadAnswer,
)
from riffusion_train.player.stream import serve_socket
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.seed_images import SEED_IMAGES
from riffusion_train.sampling.sources import band_of

pages_router = APIRouter()

_FOLDER = Path(__file__).parent / "static"
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
_FILES = {path.name: path for path in _FOLDER.glob("*") if path.suffix in _KINDS}
"""All that is served from disk: whatever the client asks for is looked up here, and is never a path."""


def studio_of(request: Request) -> GenerationLoop:
    """Return the studio of a request's application."""
    studio: GenerationLoop = request.app.state.studio
    return studio


@pages_router.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the page."""
    return _file("page.html")


@pages_router.get("/static/{name}", include_in_schema=False)
async def static(name: str) -> Response:
    """Return a file of the page."""
    return _file(name)


@pages_router.get("/healthz", tags=["state"])
async def healthz() -> dict[str, str]:
    """Say that the player is there."""
    return {"status": "ok"}


@pages_router.get("/metrics", tags=["state"])
async def metrics(request: Request) -> dict[str, Any]:
    """Return how the player does."""
    return studio_of(request).metrics()


@pages_router.get("/api/choices", tags=["sessions"])
async def choices(request: Request) -> dict[str, Any]:
    """Return what a listener can choose from."""
    studio, state = studio_of(request), request.app.state
    config = studio.maker.sampler.codec.config
    named = {name: SEED_IMAGE_WORDS.get(name, (name.replace("_", " ").capitalize(), "")) for name in SEED_IMAGES}
    return {
        "model": state.model_name,
        "rate_hz": config.rate_hz,
        "channels": studio.maker.channels,
        "segment_s": studio.maker.segment_s,
        "settings": state.defaults.public(),
        "seed_images": [{"id": id, "name": name, "about": about} for id, (name, about) in named.items()],
        "dice": list(DICE),
        "builder": {part: list(words) for part, words in BUILDER.items()},
        "limits": {
            "prompt_chars": studio.limits.prompt_chars,
            "queue": studio.limits.queue,
            "upload_bytes": studio.limits.upload_bytes,
            "upload_s": studio.limits.upload_s,
            "recording_s": studio.patience.ring_s,
        },
        "steps": {"min": 1, "max": studio.limits.most_steps, "default": studio.maker.default_steps},
        "hop_length": config.hop_length,
        "planes": config.channels.value,
        "row_hz": row_frequencies(config),
    }


def row_frequencies(config: SpectrogramConfig) -> list[float]:
    """Return the frequency in the middle of each row of a picture, from the bottom."""
    hz = np.linspace(config.f_min_hz, config.f_max_hz, 1 << 14)
    return [round(float(one), 2) for one in np.interp(np.arange(config.n_mels), band_of(hz, config), hz)]


def _file(name: str) -> Response:
    path = _FILES.get(name)
    if path is None:
        raise HTTPException(404, "there is no such file")
    return Response(path.read_bytes(), media_type=_KINDS[path.suffix], headers={"cache-control": "no-cache"})


clips_router = APIRouter()

_NAME_CHARS = 80


@clips_router.post("/api/clips", tags=["clips"], response_model=ClipAnswer, responses={503: {"model": ErrorAnswer}})
async def clip(request: Request, body: ClipBody) -> dict[str, Any]:
    """Make one clip of a prompt; the answer holds sound and picture as data URIs."""
    studio = studio_of(request)
    wanted, steps, audio_format = clip_request(body.given(), studio.reader, studio.maker.default_steps)
    return await studio.do(functools.partial(make_clip, studio.maker, wanted, steps, audio_format, studio.report))


@clips_router.post("/api/uploads", tags=["sessions"], status_code=201, response_model=UploadAnswer)
async def upload(request: Request, file: UploadFile) -> dict[str, Any]:
    """Take a sound to riff on; the first clip of it becomes the seed image of sessions that name its id."""
    studio = studio_of(request)
    limits, maker = studio.limits, studio.maker
    data = await file.read(limits.upload_bytes + 1)
    if len(data) > limits.upload_bytes:
        raise HTTPException(413, f"file: is larger than {limits.upload_bytes // 2**20} MB; give a shorter one")
    rate_hz = maker.sampler.codec.rate_hz
    async with studio.large:
        wav = await asyncio.to_thread(read_upload, data, rate_hz, maker.channels, limits.upload_s)
    id = secrets.token_urlsafe(9)
    await studio.do(functools.partial(maker.keep_upload, id, wav), jumps=True)
    name = "".join(character for character in file.filename or "" if character.isprintable())[:_NAME_CHARS]
    studio.uploads[id] = name
    while len(studio.uploads) > limits.uploads:
        oldest, _ = studio.uploads.popitem(last=False)
        maker.forget_upload(oldest)
    return {"id": id, "name": name, "duration_s": wav.shape[1] / rate_hz}


@clips_router.post(
    "/run_inference/",
    tags=["clips"],
    response_model=OriginalAnswer,
    responses={400: {"content": {"text/plain": {}}, "model": None}},
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": OriginalBody.model_json_schema()}}}},
)
async def run_inference(request: Request) -> Response:
    """Answer as the original Riffusion server did, so that its web app and other clients can point here."""
    studio = studio_of(request)
    try:
        wanted = original_request(json.loads(await request.body()), studio.reader)
    except (ValueError, RecursionError):
        return PlainTextResponse("Invalid JSON data", 400)
    except InputError as error:
        return PlainTextResponse(str(error), 400)
    return JSONResponse(await studio.do(functools.partial(run_original, studio.maker, wanted, studio.report)))


sessions_router = APIRouter(prefix="/api/sessions", tags=["sessions"])

_NAMED = ("remove", "next", "prompt")
_MOMENT = ("prompt_to", "alpha", "before")


@sessions_router.post("", status_code=201, response_model=SessionAnswer, responses={503: {"model": FullAnswer}})
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


@sessions_router.patch("/{id}", response_model=ChangeAnswer, responses={403: {"model": ErrorAnswer}})
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


@sessions_router.get("/{id}", responses={404: {"model": ErrorAnswer}})
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


@sessions_router.get("/{id}/segments/{name}", responses={404: {"model": ErrorAnswer}})
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


@sessions_router.get("/{id}/recording.{kind}", responses={404: {"model": ErrorAnswer}})
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


@sessions_router.websocket("/{id}/stream")
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
